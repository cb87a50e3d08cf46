package checkpoint

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/farandole-ml/farandole/elastic"
)

func sortBySteps(infos []Info) {
	slices.SortFunc(infos, func(a, b Info) int { return cmp.Compare(a.Step, b.Step) })
}

// Prune deletes all but the newest keep complete checkpoints, and torn ones older than the newest complete one.
// The newest complete one is never deleted. A checkpoint that is known to be corrupt counts as torn, so it never takes the
// place of a good one; torn ones that are newer than every good one stay, since somebody may be writing them.
// From those that stay it removes what crashed writers left. It goes on after an error and returns all errors.
func (d *Dir) Prune(keep int) (deleted []elastic.Step, err error) {
	infos, err := d.List()
	if err != nil {
		return nil, err
	}
	keep = max(keep, 1)
	var errs []error
	good := 0
	for i := len(infos) - 1; i >= 0; i-- {
		info := infos[i]
		usable := info.Complete && info.Problem == ""
		switch {
		case usable && good < keep:
			good++
			errs = append(errs, d.tidy(info.Step))
		case info.unreadable:
			errs = append(errs, fmt.Errorf("checkpoint: prune leaves step %d alone: %s", info.Step, info.Problem))
		case good > 0:
			if err := d.deleteStep(info.Step); err != nil {
				errs = append(errs, err)
				continue
			}
			deleted = append(deleted, info.Step)
		}
	}
	slices.Reverse(deleted)
	return deleted, errors.Join(errs...)
}

// deleteStep removes a checkpoint, COMMIT first: after a crash on the way it is torn, never complete with files missing.
func (d *Dir) deleteStep(step elastic.Step) error {
	if err := d.reject(step); err != nil {
		return err
	}
	if err := d.deleteTree(stepDir(step), 0); err != nil {
		return fmt.Errorf("checkpoint: delete %s: %w", d.full(stepDir(step)), err)
	}
	if err := d.files.syncDir("."); err != nil {
		return writeError(d.path, err)
	}
	return nil
}

// maxDepth bounds the directories within a checkpoint, which has none of its own.
const maxDepth = 16

// deleteTree removes name and what is in it. Links are removed, not followed.
func (d *Dir) deleteTree(name string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: more than %d directories deep", name, maxDepth)
	}
	entries, err := d.files.readDir(name)
	if err != nil && !isMissing(err) {
		return err
	}
	for _, e := range entries {
		child := name + "/" + e.name
		if e.dir {
			err = d.deleteTree(child, depth+1)
		} else {
			err = d.files.remove(child)
		}
		if err != nil && !isMissing(err) {
			return err
		}
	}
	if err := d.files.remove(name); err != nil && !isMissing(err) {
		return err
	}
	return nil
}

// tidy removes from a complete checkpoint the parts of other attempts and unfinished files.
func (d *Dir) tidy(step elastic.Step) error {
	c, err := d.readCommitted(step)
	if err != nil {
		return err
	}
	ours := make(map[string]bool, len(c.Parts))
	for _, p := range c.Parts {
		ours[p.File] = true
	}
	return d.removeIf(c.dir, func(name string) bool {
		return strings.HasPrefix(name, tempPrefix) || isPart(name) && !ours[name]
	})
}
