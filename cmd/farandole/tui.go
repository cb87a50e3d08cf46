package main

// This file is everything that `run` and the other watching commands print. The rules are:
//
//   - Progress, membership changes and the closing line go to the progress stream: standard output, or
//     standard error under `-o json`, because standard output then carries the JSON alone.
//   - A worker's standard output goes where progress goes, its standard error to standard error. Every
//     line begins with the worker's current rank: "[2] ", or, before it has one, its number on its host:
//     "[local 2] ". Nothing of a line is changed but trailing carriage returns.
//   - Warnings, errors and the failure block go to standard error.
//   - Lines of our own begin with "farandole: ", without a capital and without a full stop.
//   - A terminal has one progress line, at the bottom, rewritten in place. Everything else is printed above it.
//     A pipe, a file and TERM=dumb get plain lines: progress at every tenth of the job and every few seconds.
//   - Colour only on a terminal, never when NO_COLOR is set, and never the only carrier of a meaning.
//   - --quiet leaves the workers' lines, warnings, errors and the failure block.

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/term"
)

// console serialises what is printed, so that lines of workers, warnings and the progress line never mix.
// Its methods may be called from any goroutine.
type console struct {
	mu    sync.Mutex
	out   io.Writer  // progress stream
	err   io.Writer  // warnings and errors
	live  bool       // out is a terminal that can be rewritten
	color bool       // out and err take colour
	width func() int // columns of the terminal
	quiet bool
	bar   string // what the progress line shows now
}

// newConsole prints progress to out and the rest to err. live and colour are found out from out.
func newConsole(out, err io.Writer, quiet bool) *console {
	c := &console{out: out, err: err, quiet: quiet, width: func() int { return 80 }}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		c.live = true
		c.color = os.Getenv("NO_COLOR") == ""
		c.width = func() int {
			w, _, err := term.GetSize(int(f.Fd()))
			if err != nil || w < 1 {
				return 80
			}
			return w
		}
	}
	return c
}

// Colours of the terminal's own palette.
const (
	colorReset  = "\x1b[0m"
	colorBold   = "\x1b[1m"
	colorDim    = "\x1b[2m"
	colorRed    = "\x1b[31m"
	colorGreen  = "\x1b[32m"
	colorYellow = "\x1b[33m"
)

// rankColors tell workers apart; the rank in brackets does so without colour.
var rankColors = []string{"\x1b[36m", "\x1b[35m", "\x1b[34m", "\x1b[32m", "\x1b[33m", "\x1b[31m"}

func (c *console) paint(color, s string) string {
	if !c.color || color == "" {
		return s
	}
	return color + s + colorReset
}

// eraseLine goes to the first column and clears the line.
const eraseLine = "\r\x1b[K"

// above prints text, which ends in a newline, above the progress line.
func (c *console) above(w io.Writer, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live && c.bar != "" {
		_, _ = io.WriteString(c.out, eraseLine)
	}
	_, _ = io.WriteString(w, text)
	if c.live && c.bar != "" {
		_, _ = io.WriteString(c.out, c.bar)
	}
}

// say prints one line of our own on the progress stream.
func (c *console) say(color, format string, args ...any) {
	if c.quiet {
		return
	}
	c.above(c.out, "farandole: "+c.paint(color, fmt.Sprintf(format, args...))+"\n")
}

// warn prints one line on standard error, even when quiet.
func (c *console) warn(format string, args ...any) {
	c.above(c.err, "farandole: "+c.paint(colorYellow, "warning: "+fmt.Sprintf(format, args...))+"\n")
}

// block prints lines on standard error, the first as ours.
func (c *console) block(lines []string) {
	if len(lines) == 0 {
		return
	}
	c.above(c.err, "farandole: "+c.paint(colorRed, lines[0])+"\n"+strings.Join(append(lines[1:], ""), "\n"))
}

// worker prints lines that the worker of rank wrote; with a rank of -1 it is local, its number on its host, that names it.
func (c *console) worker(rank, local int, stderr bool, lines []string) {
	w := c.out
	if stderr {
		w = c.err
	}
	name, color := fmt.Sprintf("local %d", local), colorDim
	if rank >= 0 {
		name, color = fmt.Sprint(rank), rankColors[rank%len(rankColors)]
	}
	prefix := c.paint(color, "["+name+"]") + " "
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(prefix)
		b.WriteString(strings.TrimRight(l, "\r\n"))
		b.WriteByte('\n')
	}
	c.above(w, b.String())
}

// progress rewrites the progress line of a terminal; an empty text removes it.
func (c *console) progress(text string) {
	if !c.live || c.quiet {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if text == c.bar {
		return
	}
	c.bar = text
	_, _ = io.WriteString(c.out, eraseLine+text)
}

// clip cuts s to n columns, counting runes.
func clip(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:max(0, n)])
}
