package main

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Exit codes of every command.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2   // the command line, or the program's own input, is wrong
	exitStarved     = 3   // fewer than min workers were left
	exitTimeLimit   = 124 // --time-limit ran out
	exitInterrupted = 130 // Ctrl-C
	exitPreempted   = 143 // SIGTERM, after a checkpoint
)

// exitError ends the process with a code. A nil err says that everything was said already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usagef is a mistake on the command line: one sentence, exit code 2.
func usagef(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// failf is a failure with exit code 1.
func failf(format string, args ...any) error {
	return &exitError{exitFailed, fmt.Errorf(format, args...)}
}

// rpcError turns what a call to the coordinator at addr answered into a sentence and an exit code.
func rpcError(addr string, err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return &exitError{exitFailed, err}
	}
	switch s.Code() {
	case codes.Unavailable, codes.DeadlineExceeded:
		return failf("no coordinator answers at %s: start one with `farandole coordinator`, or name another with --coordinator", addr)
	case codes.InvalidArgument, codes.NotFound, codes.OutOfRange:
		return usagef("%s", s.Message())
	case codes.Unimplemented:
		return failf("what answers at %s is no Farandole coordinator of this version: %s", addr, s.Message())
	}
	return failf("the coordinator at %s refused: %s", addr, s.Message())
}

// exitCodeOf is the code that err would end the process with.
func exitCodeOf(err error) int {
	var x *exitError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &x):
		return x.code
	}
	return exitFailed
}
