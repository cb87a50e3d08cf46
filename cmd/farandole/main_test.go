package main

import (
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes the test binary the command itself when testscript, or a run that starts its coordinator, calls it.
func TestMain(m *testing.M) {
	if os.Getenv("FARANDOLE_TEST_FAKE") != "" {
		runCoordinator, runAgent = serveFake, idleAgent
	}
	// A coordinator that run starts is /proc/self/exe with its first argument, without testscript's link.
	if len(os.Args) > 1 && os.Args[1] == "coordinator" {
		os.Exit(realMain(os.Args[1:], os.Stdout, os.Stderr))
	}
	signal.Reset(syscall.SIGINT)
	testscript.Main(m, map[string]func(){
		"farandole": main,
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", RequireUniqueNames: true})
}

// TestProcesses starts coordinators, agents and workers.
func TestProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	testscript.Run(t, testscript.Params{Dir: "testdata/process", RequireUniqueNames: true})
}
