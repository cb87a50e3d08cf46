package kernels

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// TestLargeMemoryAsksForHugePages reads what the system keeps of each mapping: hg is advice to use huge pages.
func TestLargeMemoryAsksForHugePages(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage/enabled"); err != nil {
		t.Skip("this system has no transparent huge pages")
	}
	plain, err := syscall.Mmap(-1, 0, hugePage, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	require.NoError(t, err)
	defer func() { _ = syscall.Munmap(plain) }()
	require.NoError(t, syscall.Madvise(plain, syscall.MADV_HUGEPAGE))
	if !slices.Contains(flagsAt(t, uintptr(unsafe.Pointer(unsafe.SliceData(plain)))), "hg") {
		t.Skip("this system drops the advice, as QEMU does")
	}
	var p pages
	shared, own := p.floats(ownPages), AlignedFloats(3*hugePage/4)
	for name, x := range map[string][]float32{"shared": shared, "own": own[hugePage/4:]} {
		require.Contains(t, flagsAt(t, address32(x)), "hg", "%s memory", name)
	}
}

// flagsAt are the flags of the mapping that has the address.
func flagsAt(t *testing.T, at uintptr) []string {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	require.NoError(t, err)
	defer f.Close()
	inside := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var from, to uintptr
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x ", &from, &to); n == 2 {
			inside = from <= at && at < to
			continue
		}
		if flags, ok := strings.CutPrefix(lines.Text(), "VmFlags:"); ok && inside {
			return strings.Fields(flags)
		}
	}
	t.Fatalf("no mapping has %#x", at)
	return nil
}
