package services

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// ListenLoopback listens on a free port of 127.0.0.1 that lies below the range from which the system
// takes ports for outgoing connections: what is down for a moment would lose its own to one of them.
func ListenLoopback() (net.Listener, error) {
	var last error
	for range 200 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(15000+rand.IntN(17000)))
		listener, err := net.Listen("tcp", address) //nolint:noctx // immediate
		if err == nil {
			return listener, nil
		}
		last = err
	}
	return nil, fmt.Errorf("find a free port: %w", last)
}

// startOnFreePort tries a few ports: between the look for a free one and the server's own bind
// another program can take it.
func startOnFreePort(start func(port int) (*Server, error)) (*Server, error) {
	var errs []error
	for range 3 {
		listener, err := ListenLoopback()
		if err != nil {
			return nil, err
		}
		address, _ := listener.Addr().(*net.TCPAddr)
		if err := listener.Close(); err != nil {
			return nil, fmt.Errorf("free the port: %w", err)
		}
		server, err := start(address.Port)
		if err == nil {
			return server, nil
		}
		errs = append(errs, err)
		if server != nil {
			errs = append(errs, server.Close())
		}
	}
	return nil, errors.Join(errs...)
}
