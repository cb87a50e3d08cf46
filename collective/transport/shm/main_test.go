//go:build linux

package shm

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// TestMain is also main for the processes that tests and benchmarks start.
func TestMain(m *testing.M) {
	if rank, err := strconv.Atoi(os.Getenv(envRank)); err == nil {
		if err := benchRank(rank, strings.Split(os.Getenv(envAddrs), ",")); err != nil {
			fmt.Fprintln(os.Stderr, "rank", rank, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}
