package checkpoint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Commit polls for parts: often at first, since the others write at the same time, then less.
const (
	firstPoll = 5 * time.Millisecond
	lastPoll  = 250 * time.Millisecond
)

// Commit waits until all parts of the step are there (until ctx ends), writes the manifest and then COMMIT.
// Of tensors only Name and Shape are read. A part counts when its header is, byte for byte, the one that this Meta and these
// tensors give: what another generation or another number of parts left is not taken.
//
// A step that is complete and good is left alone. nil means that the checkpoint survives a power cut.
func (d *Dir) Commit(ctx context.Context, m Meta, tensors []Tensor, parts int) error {
	specs, err := checkSave(m, tensors, parts, false)
	if err != nil {
		return err
	}
	done, err := d.settled(ctx, m, specs)
	if err != nil {
		return err
	}
	if !done {
		heads, err := d.awaitParts(ctx, m, specs, parts)
		if err != nil {
			return err
		}
		if err := d.writeCommit(newManifest(m, specs, heads)); err != nil {
			return err
		}
	}
	// The checkpoint is durable now; what cannot be removed here is left to Prune.
	_ = d.tidy(m.Step)
	return nil
}

func (d *Dir) writeCommit(mf *manifest) error {
	dir := stepDir(mf.Meta.Step)
	b, err := mf.encode()
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	// The parts' writers synced their own entries, perhaps on other hosts; this sync covers a part that was renamed by one
	// that crashed before it could.
	if err := d.syncStep(mf.Meta.Step); err != nil {
		return err
	}
	if err := d.placeBytes(mf.Meta.Generation, dir+"/"+manifestName, b); err != nil {
		return err
	}
	if err := d.placeBytes(mf.Meta.Generation, dir+"/"+commitName, commitLine(b)); err != nil {
		// Not acknowledged, so it should not be seen either.
		_ = d.files.remove(dir + "/" + commitName)
		return err
	}
	return nil
}

// awaitParts polls until every part is as it must be.
func (d *Dir) awaitParts(ctx context.Context, m Meta, specs []spec, parts int) ([]partHead, error) {
	heads := make([]partHead, parts)
	spans := layout(specs, parts)
	wait := firstPoll
	for {
		var missing []string
		for p := range heads {
			if heads[p].header != nil {
				continue
			}
			head, err := d.checkPart(m, specs, spans[p], p, parts)
			if err != nil {
				missing = append(missing, fmt.Sprintf("%s: %s", partName(p, parts), err))
				continue
			}
			heads[p] = head
		}
		if len(missing) == 0 {
			return heads, nil
		}
		select {
		case <-ctx.Done():
			count, more := len(missing), ""
			if count > 3 {
				missing, more = missing[:3], fmt.Sprintf("; and %d more", count-3)
			}
			return nil, fmt.Errorf("checkpoint: commit %s: %w while waiting for %d of %d parts: %s%s",
				d.full(stepDir(m.Step)), context.Cause(ctx), count, parts, strings.Join(missing, "; "), more)
		case <-time.After(wait):
		}
		wait = min(2*wait, lastPoll)
	}
}

// checkPart reads the header of a part and compares it with the one that it must have, but for the hashes, which only the
// writer of the part knows; they are covered by a hash of their own.
func (d *Dir) checkPart(m Meta, specs []spec, spans []span, part, parts int) (partHead, error) {
	h, err := d.headOf(stepDir(m.Step) + "/" + partName(part, parts))
	if isMissing(err) {
		return partHead{}, errors.New("missing")
	}
	if err != nil {
		return partHead{}, err
	}
	hashes := strings.Fields(h.metadata[metaHashes])
	if len(hashes) == len(spans) {
		want, err := partHeader(m, specs, spans, part, parts, hashes)
		if err == nil && bytes.Equal(want, h.raw) {
			return partHead{header: h.raw, hashes: hashes}, nil
		}
	}
	if old, err := metaOf(h); err == nil && old != m {
		return partHead{}, fmt.Errorf("left by job %q generation %d step %d", old.Job, old.Generation, old.Step)
	}
	return partHead{}, errors.New("its header is not that of these tensors")
}

// headOf reads the header of a part.
func (d *Dir) headOf(name string) (*header, error) {
	f, err := d.files.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readHeader(f, f.size())
}

// metaOf is the Meta in a part's header.
func metaOf(h *header) (m Meta, err error) {
	err = json.Unmarshal([]byte(h.metadata[metaMeta]), &m)
	return m, err
}
