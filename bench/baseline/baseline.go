// Package baseline is the naive form of the product, for the benchmarks to compare with: what one
// writes first with net/http, GORM on Postgres, and asynq. One transaction and one task per step.
//
//	POST /emit:  insert the event; for each webhook insert the delivery; enqueue its task
//	task:        select the delivery, its event and its webhook; POST, signed; insert the attempt;
//	             update the delivery
//
// It is favoured where the two differ otherwise: it checks no API key and no schema, has no
// GraphQL, matches by equality alone, keeps no request, no idempotency keys, no history of
// configuration, and never retries. Its pools are wide enough not to be what is measured.
package baseline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/hibiken/asynq" //nolint:depguard // it is what the baseline is made of
	"gorm.io/driver/postgres"  //nolint:depguard // as above
	"gorm.io/gorm"             //nolint:depguard // as above
	"gorm.io/gorm/logger"      //nolint:depguard // as above
)

const (
	connections = 64
	concurrency = 64
	attemptTime = 15 * time.Second
	stopping    = 5 * time.Second
)

// Webhook is where events of one type go.
type Webhook struct {
	ID        string `gorm:"primaryKey"`
	URL       string
	EventType string `gorm:"index"`
	Secret    []byte
}

// Event is what was emitted.
type Event struct {
	ID        string `gorm:"primaryKey"`
	EventType string
	Data      string
	CreatedAt time.Time
}

// Delivery is one event on its way to one webhook.
type Delivery struct {
	ID           string `gorm:"primaryKey"`
	EventID      string `gorm:"index"`
	WebhookID    string `gorm:"index"`
	Status       string `gorm:"index"`
	AttemptCount int
	CreatedAt    time.Time
	UpdatedAt    time.Time
}

// Attempt is one request of a delivery.
type Attempt struct {
	ID             string `gorm:"primaryKey"`
	DeliveryID     string `gorm:"index"`
	Number         int
	ResponseStatus int
	ResponseBody   string
	Error          string
	Took           time.Duration
	CreatedAt      time.Time
}

// service is the running baseline.
type service struct {
	db     *gorm.DB
	tasks  *asynq.Client
	client *http.Client
}

// Run serves on a free port of 127.0.0.1, writes the address as the first line to out, and returns
// when ctx ends. DATABASE_URL and REDIS_URL say what it works on: an empty database, and a Redis
// database that nobody else uses.
func Run(ctx context.Context, getenv func(string) string, out io.Writer) error {
	db, err := gorm.Open(postgres.Open(getenv("DATABASE_URL")), &gorm.Config{Logger: logger.Discard})
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	if err := db.AutoMigrate(&Webhook{}, &Event{}, &Delivery{}, &Attempt{}); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	pool, err := db.DB()
	if err != nil {
		return fmt.Errorf("open pool: %w", err)
	}
	defer func() { _ = pool.Close() }() // the process ends
	pool.SetMaxOpenConns(connections)
	pool.SetMaxIdleConns(connections)
	redis, err := asynq.ParseRedisURI(getenv("REDIS_URL"))
	if err != nil {
		return fmt.Errorf("parse REDIS_URL: %w", err)
	}
	s := &service{db: db, tasks: asynq.NewClient(redis), client: &http.Client{
		Timeout: attemptTime, Transport: &http.Transport{MaxIdleConnsPerHost: concurrency},
	}}
	defer func() { _ = s.tasks.Close() }()

	worker := asynq.NewServer(redis, asynq.Config{Concurrency: concurrency, LogLevel: asynq.FatalLevel})
	handlers := asynq.NewServeMux()
	handlers.HandleFunc(taskType, s.deliver)
	if err := worker.Start(handlers); err != nil {
		return fmt.Errorf("start worker: %w", err)
	}
	defer worker.Shutdown()

	routes := http.NewServeMux()
	routes.HandleFunc("POST /webhooks", s.createWebhook)
	routes.HandleFunc("POST /emit", s.emit)
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	server := &http.Server{Handler: routes, ReadHeaderTimeout: time.Minute}
	context.AfterFunc(ctx, func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopping)
		defer cancel()
		_ = server.Shutdown(bounded)
	})
	if _, err := fmt.Fprintln(out, listener.Addr()); err != nil {
		return fmt.Errorf("tell the address: %w", err)
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// createWebhook takes {"url", "eventType"}.
func (s *service) createWebhook(w http.ResponseWriter, r *http.Request) {
	var in struct{ URL, EventType string }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	hook := Webhook{ID: newID("wh"), URL: in.URL, EventType: in.EventType, Secret: []byte("not a secret: the baseline's alone")}
	if err := s.db.WithContext(r.Context()).Create(&hook).Error; err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer(w, map[string]string{"id": hook.ID})
}

// emit takes {"events": [{"eventType", "data"}]} and answers {"ids": […]}.
func (s *service) emit(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Events []struct {
			EventType string
			Data      json.RawMessage
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ids := make([]string, 0, len(in.Events))
	for _, e := range in.Events {
		event := Event{ID: newID("evt"), EventType: e.EventType, Data: string(e.Data)}
		if err := s.take(r.Context(), &event); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		ids = append(ids, event.ID)
	}
	answer(w, map[string][]string{"ids": ids})
}

// take stores an event and makes its deliveries, a transaction and a task at a time.
func (s *service) take(ctx context.Context, event *Event) error {
	db := s.db.WithContext(ctx)
	if err := db.Create(event).Error; err != nil {
		return fmt.Errorf("insert event: %w", err)
	}
	var hooks []Webhook
	if err := db.Where("event_type = ?", event.EventType).Find(&hooks).Error; err != nil {
		return fmt.Errorf("select webhooks: %w", err)
	}
	for _, hook := range hooks {
		delivery := Delivery{ID: newID("dlv"), EventID: event.ID, WebhookID: hook.ID, Status: "PENDING"}
		if err := db.Create(&delivery).Error; err != nil {
			return fmt.Errorf("insert delivery: %w", err)
		}
		if _, err := s.tasks.EnqueueContext(ctx, asynq.NewTask(taskType, []byte(delivery.ID))); err != nil {
			return fmt.Errorf("enqueue: %w", err)
		}
	}
	return nil
}

func answer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // a caller that is gone needs no answer
}

func newID(prefix string) string { return prefix + "_" + uuid.Must(uuid.NewV7()).String() }
