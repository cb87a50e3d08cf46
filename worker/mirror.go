package worker

import (
	"errors"

	"github.com/farandole-ml/farandole/kernels"
)

// Mirror is for a program whose parameters, gradients and state are where the host cannot address them, in a GPU's memory:
// what it registers is a copy, and the runtime says when one side is to be brought up to date with the other. The session's
// goroutine calls it.
//
// One that is a Resident too may keep its gradients on the device; one that is a Fetcher brings them over while backward runs.
//
// An error of a device, a *kernels.DeviceError, ends this worker alone; the others go on without it.
type Mirror interface {
	// PullGradients copies the gradients of parameters number first to end-1 from the device, and zeroes them there.
	PullGradients(first, end int) error
	// PushGradients copies all gradients to the device.
	PushGradients() error
	// ClearGradients zeroes all gradients on the device.
	ClearGradients() error
	// PullState copies the values of all parameters and further state from the device, PushState to it.
	PullState() error
	PushState() error
}

// Mirror says that the registered memory mirrors a device's. Called in Setup, before the first Next.
func (s *Session) Mirror(m Mirror) {
	s.mirror.of, s.mirror.stale = m, true
	s.vec.pull = m.PullGradients
}

// mirror is what the session knows of its Mirror. Without one all is up to date always.
type mirror struct {
	of    Mirror
	stale bool // the registered values and state are not the device's
}

// pull brings registered values and state up to date, push the device's.
func (m *mirror) pull() error {
	if m.of == nil || !m.stale {
		return nil
	}
	if err := m.of.PullState(); err != nil {
		return err
	}
	m.stale = false
	return nil
}

func (m *mirror) push() error {
	if m.of == nil {
		return nil
	}
	m.stale = false
	return m.of.PushState()
}

// changed says that the program changed its parameters.
func (m *mirror) changed() { m.stale = true }

func (m *mirror) pushGradients() error {
	if m.of == nil {
		return nil
	}
	return m.of.PushGradients()
}

func (m *mirror) clearGradients() error {
	if m.of == nil {
		return nil
	}
	return m.of.ClearGradients()
}

// isDevice says whether err is a device's failure.
func isDevice(err error) bool {
	var failed *kernels.DeviceError
	return errors.As(err, &failed)
}
