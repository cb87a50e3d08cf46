package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// queryLimit is for one question to the machine.
const queryLimit = 8 * time.Second

// gpuFields are asked of nvidia-smi at once, and one by one if that fails: drivers differ in which they know.
var gpuFields = []string{
	"name", "driver_version", "compute_cap", "memory.total", "memory.used", "clocks.max.sm", "clocks.max.memory", "clocks.sm",
	"clocks.memory", "power.limit", "power.draw", "temperature.gpu", "ecc.mode.current", "mig.mode.current", "compute_mode", "pstate",
}

// machine writes down what machine this is. Only nvidia-smi is asked, nothing is set.
func machine(ctx context.Context, b *bench, r *report) result {
	for name, argv := range map[string][]string{
		"kernel": {"uname", "-srm"}, "glibc": {"getconf", "GNU_LIBC_VERSION"}, "python": {"python3", "-V"}, "cores": {"nproc"},
	} {
		if e := b.run(ctx, queryLimit, argv...); e.err == nil {
			r.Machine[name] = strings.TrimSpace(e.output)
		}
	}
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := regexp.MustCompile(`model name\s*: (.*)`).FindSubmatch(info); m != nil {
			r.Machine["processor"] = string(m[1])
		}
	}
	if info, err := os.ReadFile("/proc/meminfo"); err == nil {
		line, _, _ := bytes.Cut(info, []byte("\n"))
		r.Machine["memory"] = strings.Join(strings.Fields(string(line))[1:], " ")
	}
	if _, err := exec.LookPath("nvidia-smi"); err != nil {
		return nothing("there is no nvidia-smi")
	}
	b.run(ctx, queryLimit, "nvidia-smi", "-q")
	if !b.query(ctx, r, gpuFields...) {
		for _, field := range gpuFields {
			b.query(ctx, r, field)
		}
	}
	if r.Machine["gpu name"] == "" {
		return nothing("nvidia-smi knows no GPU: see the log")
	}
	return pass("%s, driver %s", r.Machine["gpu name"], r.Machine["gpu driver_version"])
}

// Where an assembler may be, beside the PATH.
const findPtxas = `command -v ptxas || ls -d /usr/local/cuda*/bin/ptxas 2>/dev/null | head -1 | grep . ||
python3 - <<'E'
import glob, site, sys
for d in sys.path + site.getsitepackages():
    for pattern in ("nvidia/*/bin/ptxas", "triton/backends/nvidia/bin/ptxas"):
        for f in glob.glob(d + "/" + pattern):
            print(f); sys.exit()
sys.exit(1)
E`

var (
	entryLine = regexp.MustCompile(`Compiling entry function '(\S+)'`)
	spillLine = regexp.MustCompile(`(\d+) bytes spill stores, (\d+) bytes spill loads`)
)

// ptxas assembles the PTX for this GPU by the machine's own tool.
func ptxas(ctx context.Context, b *bench, r *report) result {
	found := b.run(ctx, queryLimit, "bash", "-c", findPtxas)
	if found.err != nil {
		return nothing("there is no ptxas: neither on the PATH, nor in /usr/local/cuda*, nor among Python's packages")
	}
	tool := last(found.output)[0]
	arch := "sm_80"
	if capability := strings.ReplaceAll(r.Machine["gpu compute_cap"], ".", ""); capability != "" {
		arch = "sm_" + capability
	}
	files, err := filepath.Glob(filepath.Join(b.bundle, ptxFolder, "*.ptx"))
	if err != nil || len(files) == 0 {
		return failing(failure{What: "the bundle has no PTX"})
	}
	var failures []failure
	kernels, spilling := 0, []string(nil)
	for _, file := range files {
		target := arch
		if m := regexp.MustCompile(`\.(sm_\d+a)\.ptx$`).FindStringSubmatch(file); m != nil {
			target = m[1] // it is for this one alone
		}
		e := b.run(ctx, timeLeft(ctx), tool, "-arch="+target, "-v", file, "-o", "/dev/null")
		if e.err != nil {
			failures = append(failures, failure{filepath.Base(file) + ": " + e.err.Error(), last(e.output)})
			continue
		}
		n, names := readAssembly(e.output)
		kernels += n
		spilling = append(spilling, names...)
	}
	if len(failures) > 0 {
		return failing(failures...)
	}
	note := fmt.Sprintf("%d kernels for %s by %s", kernels, arch, tool)
	if len(spilling) > 0 {
		note += "; registers are spilled by " + strings.Join(spilling, ", ")
	}
	return pass("%s", note)
}

// readAssembly counts the kernels that ptxas -v tells of and names those that spill registers, with the bytes.
func readAssembly(output string) (kernels int, spilling []string) {
	name := ""
	for line := range strings.Lines(output) {
		if m := entryLine.FindStringSubmatch(line); m != nil {
			name = m[1]
			kernels++
		} else if m := spillLine.FindStringSubmatch(line); m != nil && (m[1] != "0" || m[2] != "0") {
			stores, _ := strconv.Atoi(m[1])
			loads, _ := strconv.Atoi(m[2])
			spilling = append(spilling, fmt.Sprintf("%s (%d bytes)", name, stores+loads))
		}
	}
	return kernels, spilling
}

// query asks nvidia-smi for fields of the first GPU.
func (b *bench) query(ctx context.Context, r *report, fields ...string) bool {
	e := b.run(ctx, queryLimit, "nvidia-smi", "--query-gpu="+strings.Join(fields, ","), "--format=csv,noheader")
	lines := last(e.output)
	if e.err != nil || len(lines) == 0 {
		return false
	}
	values := strings.Split(lines[0], ", ")
	for i, value := range values[:min(len(values), len(fields))] {
		r.Machine["gpu "+fields[i]] = value
	}
	return true
}
