package main

import (
	"fmt"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

// leakChecked fails a test binary whose goroutines outlive its tests, and leaves no binaries behind.
type leakChecked struct{ *testing.M }

func (m leakChecked) Run() int {
	code := m.M.Run()
	removeBinaries()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// TestMain makes the test binary the command itself when testscript, or a run that starts its coordinator, calls it.
func TestMain(m *testing.M) {
	if os.Getenv("FARANDOLE_TEST_FAKE") != "" {
		runCoordinator, runAgent = serveFake, idleAgent
	}
	// What the command starts of itself is /proc/self/exe, without testscript's link.
	if len(os.Args) > 1 && os.Args[1] == "sweep-test" {
		os.Exit(sweepTest())
	}
	if os.Getenv("FARANDOLE_TEST_MAIN") != "" || len(os.Args) > 1 && (os.Args[1] == "coordinator" || os.Args[1] == "bench") {
		os.Exit(realMain(os.Args[1:], os.Stdout, os.Stderr))
	}
	testscript.Main(leakChecked{m}, map[string]func(){
		"farandole": main,
		"trainer":   trainerMain,
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
