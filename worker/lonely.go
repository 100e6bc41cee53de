package worker

import "time"

// lonely is one webhook's circuit breaker without Redis: this process breaks it by what it sees
// itself. The zero one is closed.
type lonely struct {
	until   time.Time // open until then, then half open; zero: closed
	probing bool
}

func (l *lonely) open() bool { return !l.until.IsZero() }

// look opens it where the counts of the window say so.
func (l *lonely) look(now time.Time, counts map[int64]tally, opt BreakerOptions) {
	var all tally
	for _, t := range counts {
		all.attempts += t.attempts
		all.failures += t.failures
	}
	if !l.open() && all.attempts >= opt.MinAttempts && float64(all.failures) >= opt.Threshold*float64(all.attempts) {
		l.until = now.Add(opt.Cooldown)
	}
}

// ask gives leave to probe (0), or says how long to wait. A circuit that Redis said was open, before it
// went away, is given one more cooldown.
func (l *lonely) ask(now time.Time, cooldown time.Duration) time.Duration {
	if !l.open() {
		l.until = now.Add(cooldown)
	}
	if left := l.until.Sub(now); left > 0 {
		return left
	}
	if l.probing {
		return probeGap
	}
	l.probing = true
	return 0
}

// settle ends a probe.
func (l *lonely) settle(now time.Time, told verdict, cooldown time.Duration) {
	l.probing = false
	switch told {
	case tellsWell:
		*l = lonely{}
	case tellsBroken:
		l.until = now.Add(cooldown)
	case tellsNothing:
	}
}
