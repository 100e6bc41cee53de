package queue

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/redis/go-redis/v9"
)

// LogLibrary sends what the Redis library prints for the whole process to logger, at debug level:
// a Redis that is away is told of once by Conn, not once a dial. Call it once, from main.
func LogLibrary(logger *slog.Logger) { redis.SetLogger(libraryLog{logger}) }

type libraryLog struct{ logger *slog.Logger }

// Printf implements the library's logging interface.
func (l libraryLog) Printf(ctx context.Context, format string, args ...any) {
	l.logger.DebugContext(ctx, "redis library", "text", fmt.Sprintf(format, args...))
}
