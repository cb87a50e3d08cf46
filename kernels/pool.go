package kernels

import "sync"

// pool runs the parts of a task on threads goroutines, the caller's among them. The other goroutines start with
// the first task that needs them and end with close. One task runs at a time.
type pool struct {
	threads int
	work    chan int // part numbers; nil until started
	task    part
	parts   sync.WaitGroup // parts of the running task
	workers sync.WaitGroup // goroutines
}

// part computes part i of n of its task.
type part interface{ run(i, n int) }

// run computes all n parts, n at most threads, and returns when they are done.
func (p *pool) run(t part, n int) {
	if n > 1 && p.work == nil {
		p.start()
	}
	p.task = t
	p.parts.Add(n - 1)
	for i := 1; i < n; i++ {
		p.work <- i | n<<32
	}
	t.run(0, n)
	p.parts.Wait()
	p.task = nil
}

func (p *pool) start() {
	p.work = make(chan int, p.threads)
	for range p.threads - 1 {
		p.workers.Go(func() {
			for i := range p.work {
				p.task.run(i&(1<<32-1), i>>32)
				p.parts.Done()
			}
		})
	}
}

func (p *pool) close() {
	if p.work != nil {
		close(p.work)
		p.workers.Wait()
		p.work = nil
	}
}

// cut is where part i of n of [0, length) begins when boundaries are multiples of align.
func cut(length, align, i, n int) int {
	units := (length + align - 1) / align
	return min(units*i/n*align, length)
}
