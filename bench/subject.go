package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// The stacks that a server runs on.
const (
	embedded   = "embedded"
	production = "production"
)

// The arguments with which this program starts itself.
const (
	receiverCommand = "-receiver-process-"
	baselineCommand = "-baseline-process-"
)

// A subject is a running system that takes events and delivers them.
type subject struct {
	name    string
	stack   string // empty: the baseline
	addr    string
	key     string
	process *process
	// database is the URL of its Postgres, where it has one.
	database string
	parties  []party // whose CPU it needs: its own process, its database's, its queue's

	// emission prepares an emit of count events of a type.
	emission func(eventType string, count int) (*emission, error)
	// subscribe makes a webhook.
	subscribe func(ctx context.Context, hook webhook) error
}

// path is where the receiver takes the subject's deliveries.
func (s *subject) path() string { return "/ok/" + strings.ReplaceAll(s.name, " ", "-") }

// A webhook is what the scenarios need one to be.
type webhook struct {
	url, eventType string
	perSecond      int // 0: no limit
}

// sample is the data of every event: what the catalogue shows for a new participant, 0.6 kB.
func sample() json.RawMessage {
	return json.RawMessage(`{"participant":{"id":"prt_8f3k2m","externalId":"crm-48213","email":"ada.byron@example.com",` +
		`"name":"Ada Byron","firstName":"Ada","lastName":"Byron","phone":"+442079460123","locale":"en-GB",` +
		`"timeZone":"Europe/London","source":"web_form","tags":[{"id":"tag_newsletter","name":"Newsletter"}],` +
		`"attributes":{"company":"Analytical Engines Ltd","plan":"trial","seats":5},` +
		`"createdAt":"2026-03-14T09:26:53Z","updatedAt":"2026-03-14T09:26:53Z"}}`)
}

// subjects starts what is compared: the baseline where it is wanted, and the server on each stack.
// The caller stops them.
func (b *bench) subjects(ctx context.Context, withBaseline bool) (list []*subject, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, stopAll(list))
			list = nil
		}
	}()
	if withBaseline && b.baseline {
		s, err := b.startBaseline(ctx)
		if err != nil {
			return list, err
		}
		list = append(list, s)
	}
	for _, stack := range b.stacks {
		if b.against != "" {
			s, err := b.startServer(ctx, stack+" before", stack, b.against)
			if err != nil {
				return list, err
			}
			list = append(list, s)
		}
		s, err := b.startServer(ctx, stack, stack, b.serverPath)
		if err != nil {
			return list, err
		}
		list = append(list, s)
	}
	return list, nil
}

func stopAll(list []*subject) error {
	var errs []error
	for _, s := range slices.Backward(list) {
		errs = append(errs, s.process.stop())
	}
	return errors.Join(errs...)
}

// servingAt finds the address in the server's log.
var servingAt = regexp.MustCompile(`"msg":"serving".*"address":"([^"]+)"`)

// startServer starts the server on a stack, with data of its own.
func (b *bench) startServer(ctx context.Context, name, stack, binary string) (*subject, error) {
	dir, err := os.MkdirTemp(b.dir, "server-")
	if err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	master := make([]byte, 32)
	_, _ = rand.Read(master) // never fails
	key := "bench_" + rand.Text()
	s := &subject{name: name, stack: stack, key: key}
	env := []string{
		"LISTEN_ADDR=127.0.0.1:0", "DATA_DIR=" + filepath.Join(dir, "data"), "EGRESS_ALLOW=127.0.0.0/8", "LOG_FORMAT=json",
		"ADMIN_API_KEY=" + key, "SECRETS_KEY=" + base64.StdEncoding.EncodeToString(master), "SHUTDOWN_GRACE=3s",
	}
	env = append(env, b.serverEnv...)
	if stack == production {
		database, err := b.newDatabase(ctx)
		if err != nil {
			return nil, err
		}
		s.database = database
		env = append(env, "DATABASE_URL="+database, "REDIS_URL="+b.newRedis())
	}
	if b.profile != "" {
		into := filepath.Join(b.profile, strings.ReplaceAll(name, " ", "-"))
		if err := os.MkdirAll(into, 0o755); err != nil {
			return nil, fmt.Errorf("make profile directory: %w", err)
		}
		env = append(env, "BENCH_PROFILE="+into)
	}
	s.process, s.addr, err = startProcess(ctx, name, binary, []string{"serve"}, env, func(line string) string {
		if found := servingAt.FindStringSubmatch(line); found != nil {
			return found[1]
		}
		return ""
	})
	if err != nil {
		return nil, err
	}
	s.parties = []party{{"server", s.process.pid()}}
	if stack == production {
		s.parties = append(s.parties, b.backing...)
	}
	s.emission, s.subscribe = s.emitGraphQL, s.subscribeGraphQL
	return s, nil
}

// startBaseline starts the baseline on Postgres and Redis.
func (b *bench) startBaseline(ctx context.Context) (*subject, error) {
	database, err := b.newDatabase(ctx)
	if err != nil {
		return nil, err
	}
	s := &subject{name: "baseline"}
	env := []string{"DATABASE_URL=" + database, "REDIS_URL=" + b.newRedis()}
	s.process, s.addr, err = startProcess(ctx, s.name, b.self, []string{baselineCommand}, env, firstLine)
	if err != nil {
		return nil, err
	}
	s.parties = append([]party{{"server", s.process.pid()}}, b.backing...)
	s.emission = func(eventType string, count int) (*emission, error) {
		type event struct {
			EventType string          `json:"eventType"`
			Data      json.RawMessage `json:"data"`
		}
		request, err := post(s.addr, "/emit", "", map[string]any{"events": slices.Repeat([]event{{eventType, sample()}}, count)})
		return &emission{request: request, events: count, ids: func(answer []byte, into []string) ([]string, error) {
			var out struct{ IDs []string }
			err := json.Unmarshal(answer, &out)
			return append(into, out.IDs...), err
		}}, err
	}
	s.subscribe = func(_ context.Context, hook webhook) error {
		request, err := post(s.addr, "/webhooks", "", map[string]string{"url": hook.url, "eventType": hook.eventType})
		if err != nil {
			return err
		}
		c := &caller{addr: s.addr}
		defer c.close()
		_, _, err = c.call(request)
		return err
	}
	return s, nil
}

// subscribeGraphQL makes a webhook through the server's API.
func (s *subject) subscribeGraphQL(_ context.Context, hook webhook) error {
	input := map[string]any{"name": hook.url, "targetUrl": hook.url, "eventTypes": []string{hook.eventType}}
	if hook.perSecond > 0 {
		input["rateLimitPerSecond"] = hook.perSecond
	}
	var out struct {
		CreateWebhook struct {
			UserErrors []struct{ Message string }
		}
	}
	err := s.query(`mutation($input: CreateWebhookInput!) { createWebhook(input: $input) { userErrors { message } } }`,
		map[string]any{"input": input}, &out)
	if err == nil && len(out.CreateWebhook.UserErrors) > 0 {
		err = errors.New(out.CreateWebhook.UserErrors[0].Message)
	}
	if err != nil {
		return fmt.Errorf("create webhook: %w", err)
	}
	return nil
}

// query asks the server's API.
func (s *subject) query(document string, variables map[string]any, into any) error {
	request, err := post(s.addr, "/graphql", s.key, map[string]any{"query": document, "variables": variables})
	if err != nil {
		return err
	}
	c := &caller{addr: s.addr}
	defer c.close()
	body, _, err := c.call(request)
	if err != nil {
		return err
	}
	var answer struct {
		Data   json.RawMessage
		Errors []struct{ Message string }
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if len(answer.Errors) > 0 {
		return errors.New(answer.Errors[0].Message)
	}
	if err := json.Unmarshal(answer.Data, into); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

// emitGraphQL prepares emitEvent for one event and emitEvents for more.
func (s *subject) emitGraphQL(eventType string, count int) (*emission, error) {
	type result struct {
		Event      *struct{ ID string }
		UserErrors []struct{ Message string }
	}
	input := map[string]any{"eventType": eventType, "data": sample()}
	document := `mutation($input: EmitEventInput!) { emitEvent(input: $input) { event { id } userErrors { message } } }`
	variables := map[string]any{"input": input}
	if count > 1 {
		document = `mutation($inputs: [EmitEventInput!]!) { emitEvents(inputs: $inputs) { results { event { id } userErrors { message } } } }`
		variables = map[string]any{"inputs": slices.Repeat([]any{input}, count)}
	}
	request, err := post(s.addr, "/graphql", s.key, map[string]any{"query": document, "variables": variables})
	if err != nil {
		return nil, err
	}
	return &emission{request: request, events: count, ids: func(answer []byte, into []string) ([]string, error) {
		var out struct {
			Data struct {
				EmitEvent  *result
				EmitEvents *struct{ Results []result }
			}
		}
		if err := json.Unmarshal(answer, &out); err != nil {
			return into, fmt.Errorf("read answer: %w", err)
		}
		var results []result
		switch {
		case out.Data.EmitEvent != nil:
			results = []result{*out.Data.EmitEvent}
		case out.Data.EmitEvents != nil:
			results = out.Data.EmitEvents.Results
		}
		for _, r := range results {
			if r.Event != nil {
				into = append(into, r.Event.ID)
			}
		}
		return into, nil
	}}, nil
}
