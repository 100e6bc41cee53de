package egress

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// ParseRetryAfter reads a Retry-After header: whole seconds, or an HTTP date,
// which is compared with now. It returns how long to wait, at most limit; false
// when the header asks for nothing: absent, malformed, zero or in the past.
func ParseRetryAfter(value string, now time.Time, limit time.Duration) (time.Duration, bool) {
	value = strings.TrimSpace(value)
	if digits(value) {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || seconds > int64(limit/time.Second) {
			return limit, limit > 0 // more than any limit, or than a number can say
		}
		wait := time.Duration(seconds) * time.Second
		return wait, wait > 0
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	wait := min(date.Sub(now), limit)
	return max(wait, 0), wait > 0
}
