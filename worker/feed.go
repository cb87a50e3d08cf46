package worker

// Fetcher is a Mirror that brings gradients over while the device computes.
type Fetcher interface {
	Mirror
	// FetchGradients begins what PullGradients does for the same parameters, whose gradients are final. All is done when wait
	// has returned nil; until then nobody else touches these gradients, on either side. Another goroutine calls wait, once.
	FetchGradients(first, end int) (wait func() error, err error)
}

// feed brings the gradients of finished buckets into a step's sum and begins their reduction, in order, while backward goes on.
// Its goroutine ends when the step joins it.
type feed struct {
	handed  int               // buckets
	arrives chan func() error // by bucket: waits for its gradients. There is room for all
	done    chan struct{}
}

// fetch hands over the buckets that are final when the gradients of parameter first and later ones are.
func (s *Session) fetch(c *step, from Fetcher, first int) {
	for {
		n := 0
		if c.feed != nil {
			n = c.feed.handed
		}
		if n == len(s.vec.buckets)-1 || s.vec.buckets[n].hi > s.vec.ends[first] { // the last bucket has the loss
			return
		}
		if c.feed == nil {
			c.feed = &feed{arrives: make(chan func() error, len(s.vec.buckets)), done: make(chan struct{})}
			go s.feed(c, c.feed)
		}
		wait, err := from.FetchGradients(s.vec.tensors(s.vec.buckets[n].lo, s.vec.buckets[n].hi))
		if err != nil {
			wait = func() error { return err }
		}
		c.feed.handed++
		c.feed.arrives <- wait
	}
}

// feed waits for every bucket that is handed over, also after an error: none is on its way any more when it ends.
func (s *Session) feed(c *step, f *feed) {
	defer close(f.done)
	for wait := range f.arrives {
		err := wait()
		if c.sum.err == nil {
			c.sum.err = err
		}
		if c.sum.err != nil {
			continue
		}
		end := s.vec.buckets[c.started].hi
		c.sum.pulled = end
		c.sum.put(s.params, end)
		s.startBucket(c)
	}
}

// join ends the step's feed, if there is one, when all that was handed to it is in.
func (c *step) join() {
	if c.feed != nil {
		close(c.feed.arrives)
		<-c.feed.done
		c.feed = nil
	}
}
