// Package data reads training data and says which samples a shard of a step has.
//
// What a shard reads is a pure function of the seed, the data set's length and the shard: nothing here knows a rank or
// a world size, keeps a position, or has to be saved. A job that resumes at step n reads on by asking for step n+1.
package data

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// ErrTooSmall says that the data has too few samples for one global batch.
var ErrTooSmall = errors.New("data too small")

// InputError is a bad input that the user can mend: a missing file, too little text, an impossible batch.
// Reason is one sentence that says what to do.
type InputError struct {
	Reason string
	Err    error // what it wraps, may be nil
}

func (e *InputError) Error() string { return e.Reason }
func (e *InputError) Unwrap() error { return e.Err }

// mend is an InputError that wraps err.
func mend(err error, format string, args ...any) error {
	return &InputError{Reason: fmt.Sprintf(format, args...), Err: err}
}

// golden is 2⁶⁴ divided by the golden ratio, the increment of SplitMix64.
const golden = 0x9e3779b97f4a7c15

// mix is the output function of SplitMix64 (Steele, Lea, Flood 2014), a bijection of 64 bits.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// goTimeout bounds a question to the go command; it may have to download a module.
const goTimeout = 2 * time.Minute

// askGo runs the go command and gives what it prints, without the newline. It runs away from any module of the user's,
// which it could change, or which could ask for another toolchain.
func askGo(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, goTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = os.TempDir()
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
