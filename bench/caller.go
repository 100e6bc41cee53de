package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// callLimit bounds one call.
const callLimit = 30 * time.Second

// A caller sends prepared requests over one connection, at a cost far below that of net/http's
// client, so that what is measured is the server. It is not safe for concurrent use.
type caller struct {
	addr string
	conn net.Conn
	in   *bufio.Reader
	body bytes.Buffer
}

// call sends the request and returns the body of the answer, valid until the next call, and when the
// request was about to be sent. An answer other than 200 is an error.
func (c *caller) call(request []byte) (body []byte, sent time.Time, err error) {
	if c.conn == nil {
		if c.conn, err = net.DialTimeout("tcp", c.addr, callLimit); err != nil { //nolint:noctx // bounded
			return nil, sent, fmt.Errorf("dial: %w", err)
		}
		c.in = bufio.NewReader(c.conn)
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	sent = time.Now()
	if err := c.conn.SetDeadline(sent.Add(callLimit)); err != nil {
		return nil, sent, fmt.Errorf("set deadline: %w", err)
	}
	if _, err := c.conn.Write(request); err != nil {
		return nil, sent, fmt.Errorf("send: %w", err)
	}
	response, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return nil, sent, fmt.Errorf("read answer: %w", err)
	}
	defer func() { _ = response.Body.Close() }() // read to its end below
	c.body.Reset()
	if _, err := io.Copy(&c.body, response.Body); err != nil {
		return nil, sent, fmt.Errorf("read answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, sent, fmt.Errorf("answered %s: %s", response.Status, c.body.Bytes())
	}
	if response.Close {
		c.close()
	}
	return c.body.Bytes(), sent, nil
}

func (c *caller) close() {
	if c.conn != nil {
		_ = c.conn.Close() // whatever became of it, it is not used again
		c.conn = nil
	}
}

// post prepares a request with a JSON body.
func post(addr, path, key string, body any) ([]byte, error) {
	content, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	var b bytes.Buffer
	b.WriteString("POST " + path + " HTTP/1.1\r\nHost: " + addr + "\r\nContent-Type: application/json\r\n")
	if key != "" {
		b.WriteString("Authorization: Bearer " + key + "\r\n")
	}
	b.WriteString("Content-Length: " + strconv.Itoa(len(content)) + "\r\n\r\n")
	b.Write(content)
	return b.Bytes(), nil
}

// An emission is a prepared emit of one or more events, and how to read its answer.
type emission struct {
	request []byte
	events  int
	ids     func(answer []byte, into []string) ([]string, error)
	// prepare gives request and id where the caller chooses the id itself; nil: the answer names it.
	prepare func() (request []byte, id string)
}

// emit sends it and gives the ids of the events.
func (c *caller) emit(e *emission, into []string) (ids []string, sent time.Time, err error) {
	request, id := e.request, ""
	if e.prepare != nil {
		request, id = e.prepare()
	}
	body, sent, err := c.call(request)
	if err != nil {
		return into, sent, err
	}
	if e.prepare != nil {
		return append(into, id), sent, nil
	}
	before := len(into)
	if into, err = e.ids(body, into); err != nil {
		return into, sent, err
	}
	if len(into)-before != e.events {
		return into, sent, errors.New("answered " + strconv.Itoa(len(into)-before) + " events: " + string(body))
	}
	return into, sent, nil
}
