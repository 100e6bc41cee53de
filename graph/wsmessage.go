package graph

import (
	"bytes"
	"encoding/json"
	"strings"
)

// subprotocol is the one that is spoken on WebSockets: graphql-transport-ws, see
// https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md.
const subprotocol = "graphql-transport-ws"

// The codes that a WebSocket is closed with, beside WebSocket's own.
const (
	closeBadMessage   = 4400
	closeUnauthorized = 4401 // a subscribe before connection_init
	closeForbidden    = 4403 // the credentials are not good, or no longer
	closeNoProtocol   = 4406
	closeInitTimeout  = 4408
	closeDuplicate    = 4409
	closeTwoInits     = 4429
)

// message is what a client sends. payload is its text, empty where there is none.
type message struct {
	kind, id string
	payload  []byte
}

// maxOperationID bounds what a client may name an operation.
const maxOperationID = 256

// parseMessage reads a message. Members that the protocol does not know are ignored.
func parseMessage(text []byte, maxDepth int) (message, error) {
	var m message
	s := scanner{text: text, maxDepth: maxDepth}
	if s.peek() != '{' {
		return m, errNotJSON
	}
	err := s.uniqueMembers(func(key string) error {
		value, err := s.value()
		if err != nil {
			return err
		}
		switch key {
		case "type", "id":
			if value[0] != '"' {
				return errNotJSON
			}
			if key == "id" {
				m.id = unquote(value)
			} else {
				m.kind = unquote(value)
			}
		case "payload":
			if value[0] != 'n' { // null is none
				m.payload = value
			}
		}
		return nil
	})
	if err == nil {
		err = s.end()
	}
	return m, err
}

// credentials takes the Authorization out of the payload of connection_init; "" where there is none.
func credentials(payload []byte, maxDepth int) (string, error) {
	if len(payload) == 0 {
		return "", nil
	}
	s := scanner{text: payload, maxDepth: maxDepth}
	if s.peek() != '{' {
		return "", errNotJSON
	}
	var header string
	err := s.uniqueMembers(func(key string) error {
		value, err := s.value()
		// Names of headers know no case.
		if err == nil && strings.EqualFold(key, "Authorization") {
			if value[0] != '"' {
				return errNotJSON
			}
			header = unquote(value)
		}
		return err
	})
	return header, err
}

// writeMessage writes a message with an id, which comes from the client, and a payload that is JSON.
func writeMessage(kind, id string, payload []byte) []byte {
	var b bytes.Buffer
	b.Grow(len(payload) + len(id) + 40)
	b.WriteString(`{"type":"` + kind + `"`)
	if id != "" {
		quoted, err := json.Marshal(id)
		if err != nil { // a text always is JSON
			quoted = []byte(`""`)
		}
		b.WriteString(`,"id":`)
		b.Write(quoted)
	}
	if len(payload) > 0 {
		b.WriteString(`,"payload":`)
		b.Write(payload)
	}
	b.WriteByte('}')
	return b.Bytes()
}
