package services

import (
	"fmt"
	"strings"
)

// A Source says where a server's program comes from. The zero Source names nothing.
type Source struct {
	// Path is the directory of Postgres' binaries, or the Redis server's binary.
	// Empty when the server runs in a container.
	Path string
	// Engine is the container command line, docker or podman. Empty when Path is set.
	Engine string
	// Image is the container image, with its tag.
	Image string
}

// ParseSource reads what String wrote: a path, or engine://image. The empty string is the zero Source.
func ParseSource(text string) (Source, error) {
	engine, image, isContainer := strings.Cut(text, "://")
	if !isContainer {
		return Source{Path: text}, nil
	}
	if engine == "" || image == "" {
		return Source{}, fmt.Errorf("source %q is neither a path nor engine://image", text)
	}
	return Source{Engine: engine, Image: image}, nil
}

// String is the form that environment variables carry.
func (s Source) String() string {
	if s.Engine != "" {
		return s.Engine + "://" + s.Image
	}
	return s.Path
}

// IsZero reports whether the source names nothing.
func (s Source) IsZero() bool { return s == Source{} }
