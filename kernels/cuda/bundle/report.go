package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	jsonFile     = "report.json"
	markdownFile = "report.md"
)

// report is report.json.
type report struct {
	Version     string                        `json:"version"` // the bundle's file VERSION
	Device      string                        `json:"device,omitempty"`
	ClassBF16   string                        `json:"class_bf16,omitempty"` // of products in bfloat16, as steps have them
	Emulated    bool                          `json:"emulated"`             // the GPU was the tests' own: its times mean nothing
	Tiny        bool                          `json:"tiny"`                 // the sizes too
	NoGPU       string                        `json:"no_gpu,omitempty"`
	Interrupted bool                          `json:"interrupted,omitempty"`
	Began       time.Time                     `json:"began"`
	Seconds     float64                       `json:"seconds"`
	LimitS      float64                       `json:"limit_s"`
	ExitCode    int                           `json:"exit_code"` // -1 while it runs
	Machine     map[string]string             `json:"machine"`
	Bars        []bar                         `json:"bars"`
	Parts       []result                      `json:"parts"`
	Figures     map[string]map[string]float64 `json:"figures"` // by what was measured, then by unit
}

func newReport(version string, o options, began time.Time) *report {
	return &report{Version: strings.TrimSpace(version), Tiny: o.tiny, Began: began, LimitS: o.limit.Seconds(), ExitCode: -1,
		Machine: map[string]string{}, Figures: map[string]map[string]float64{}}
}

// add keeps figures under a prefix and says how many there are.
func (r *report) add(prefix string, figures map[string]map[string]float64) int {
	for name, f := range figures {
		if prefix != "" {
			name = prefix + " " + name
		}
		r.Figures[name] = f
	}
	return len(figures)
}

// finish settles bars and exit code.
func (r *report) finish(interrupted bool, took time.Duration) int {
	r.Interrupted, r.Seconds = interrupted, took.Seconds()
	count := map[string]int{}
	for _, p := range r.Parts {
		count[p.Verdict]++
	}
	switch {
	case interrupted:
		r.ExitCode = exitInterrupted
	case count[failed] > 0:
		r.ExitCode = exitFailed
	case r.NoGPU != "":
		r.ExitCode = exitNoGPU
	case count[notRun] > 0:
		r.ExitCode = exitUnfinished
	default:
		r.ExitCode = exitPassed
	}
	return r.ExitCode
}

// write replaces both files at once each, so that a run that is killed leaves whole ones.
func (r *report) write(dir string) error {
	r.Bars = r.bars()
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	for name, text := range map[string][]byte{jsonFile: append(data, '\n'), markdownFile: []byte(r.markdown())} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path+".new", text, 0o644); err != nil {
			return err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return err
		}
	}
	return nil
}

// markdown is the report for people.
func (r *report) markdown() string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Farandole on a GPU\n\n%s\n\n", strings.ReplaceAll(r.Version, "\n", "  \n"))
	switch {
	case r.Device != "":
		fmt.Fprintf(&b, "Device: %s.\n", r.Device)
		if r.ClassBF16 != "" {
			fmt.Fprintf(&b, "Class of products in bfloat16: %s.\n", r.ClassBF16)
		}
	case r.NoGPU != "":
		fmt.Fprintf(&b, "No GPU: %s\n", r.NoGPU)
	}
	if r.Emulated || r.Tiny {
		b.WriteString("**Emulated or tiny: this shows that the parts run. Its times mean nothing.**\n")
	}
	if r.ExitCode < 0 {
		b.WriteString("**Unfinished: it was ended from outside.**\n")
	} else {
		fmt.Fprintf(&b, "It took %.0f s of %.0f; exit code %d.\n", r.Seconds, r.LimitS, r.ExitCode)
	}
	b.WriteString("\n| bar | figure | verdict |\n|---|---|---|\n")
	for _, x := range r.Bars {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", x.Bar, x.Figure, x.Verdict)
	}
	b.WriteString("\n| part | verdict | seconds | |\n|---|---|---|---|\n")
	for _, p := range r.Parts {
		fmt.Fprintf(&b, "| %s | %s | %.1f | %s |\n", p.Name, p.Verdict, p.Seconds, strings.ReplaceAll(p.Note, "|", "\\|"))
	}
	if len(r.Figures) > 0 {
		b.WriteString("\n| measured | |\n|---|---|\n")
	}
	for _, name := range slices.Sorted(maps.Keys(r.Figures)) {
		var values []string
		for _, unit := range slices.Sorted(maps.Keys(r.Figures[name])) {
			values = append(values, fmt.Sprintf("%.4g %s", r.Figures[name][unit], unit))
		}
		fmt.Fprintf(&b, "| %s | %s |\n", name, strings.Join(values, ", "))
	}
	if len(r.Machine) > 0 {
		b.WriteString("\n| machine | |\n|---|---|\n")
	}
	for _, name := range slices.Sorted(maps.Keys(r.Machine)) {
		fmt.Fprintf(&b, "| %s | %s |\n", name, r.Machine[name])
	}
	for _, p := range r.Parts {
		for _, f := range p.Failures {
			fmt.Fprintf(&b, "\n%s failed: %s\n", p.Name, f.What)
			if len(f.Lines) > 0 {
				fmt.Fprintf(&b, "```\n%s\n```\n", strings.Join(f.Lines, "\n"))
			}
		}
	}
	return b.String()
}
