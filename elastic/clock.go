package elastic

import "time"

// clock is the time that limits are judged by. It runs with the driver's, but never advances by more than most
// between two ticks: what a late tick slept through did not happen, so every running limit is widened by the
// lateness and nobody is accused for it.
type clock struct {
	started bool
	last    time.Duration // the driver's time of the last tick
	at      time.Duration // this clock's time then
	most    time.Duration
}

func (c *clock) now(real time.Duration) time.Duration {
	if !c.started {
		c.started, c.last, c.at = true, real, real
	}
	return c.at + min(max(real-c.last, 0), c.most)
}

func (c *clock) tick(real time.Duration) {
	c.at = c.now(real)
	c.last = max(c.last, real)
}
