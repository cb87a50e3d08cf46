//go:build linux

package shm

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugeBytes is the size of a huge page. Memory of that size and more begins at a multiple of it, so that the kernel can
// use huge pages, which save a table walk for every 4 KiB of what peers write.
const hugeBytes = 2 << 20

// seals are what a peer's memory must have: nobody can make it shorter, so that touching it cannot fail.
const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW

var errUnsealed = errors.New("memory of a peer can shrink")

// createMemory makes n bytes of memory that can be passed to other processes: the descriptor, and where they lie here.
// All its pages exist when it returns. It is errNoMemory when there are not enough.
func createMemory(name string, n int) (*os.File, []byte, error) {
	if err := checkAvailable(n); err != nil {
		return nil, nil, err
	}
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // a kernel before 6.3
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, nil, noMemory(fmt.Errorf("memfd_create: %w", err))
	}
	f := os.NewFile(uintptr(fd), name)
	mem, err := fillMemory(f, n)
	if err != nil {
		f.Close()
		return nil, nil, noMemory(err)
	}
	return f, mem, nil
}

func fillMemory(f *os.File, n int) ([]byte, error) {
	fd := int(f.Fd())
	if err := unix.Ftruncate(fd, int64(n)); err != nil {
		return nil, fmt.Errorf("ftruncate to %d bytes: %w", n, err)
	}
	mem, err := mapMemory(fd, n)
	if err != nil {
		return nil, err
	}
	err = unix.Madvise(mem, unix.MADV_POPULATE_WRITE)
	if errors.Is(err, unix.EINVAL) { // a kernel before 5.14
		err = unix.Fallocate(fd, 0, 0, int64(n))
	}
	if err != nil {
		err = fmt.Errorf("%d bytes of shared memory: %w", n, err)
	} else if _, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals|unix.F_SEAL_SEAL); err != nil {
		err = fmt.Errorf("seal: %w", err)
	}
	if err != nil {
		unmapMemory(mem)
		return nil, err
	}
	return mem, nil
}

// adoptMemory maps n bytes that a peer passed. It keeps f open.
func adoptMemory(f *os.File, n int) ([]byte, error) {
	have, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnsealed, err)
	}
	if have&seals != seals {
		return nil, fmt.Errorf("%w: it has seals %#x, not %#x", errUnsealed, have, seals)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("fstat: %w", err)
	}
	if st.Size < int64(n) {
		return nil, fmt.Errorf("memory of %d bytes was announced as %d", st.Size, n)
	}
	return mapMemory(int(f.Fd()), n)
}

// mapMemory maps the first n bytes of fd at an address that suits huge pages.
func mapMemory(fd, n int) ([]byte, error) {
	room := n
	if n >= hugeBytes {
		room += hugeBytes
	}
	at, err := unix.MmapPtr(-1, 0, nil, uintptr(room), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("reserve %d bytes of addresses: %w", room, err)
	}
	lead := 0
	if room > n {
		lead = int(-uintptr(at) & (hugeBytes - 1))
	}
	mem := unsafe.Slice((*byte)(unsafe.Add(at, lead)), n)
	if err := mapOver(mem, fd); err != nil {
		_ = unix.MunmapPtr(at, uintptr(room))
		return nil, err
	}
	if lead > 0 {
		_ = unix.MunmapPtr(at, uintptr(lead))
	}
	if tail := room - lead - n; tail > 0 {
		_ = unix.MunmapPtr(unsafe.Add(at, lead+n), uintptr(tail))
	}
	return mem, nil
}

// mapOver replaces what is mapped at mem by the first bytes of fd.
func mapOver(mem []byte, fd int) error {
	base := unsafe.Pointer(unsafe.SliceData(mem))
	if _, err := unix.MmapPtr(fd, 0, base, uintptr(len(mem)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED); err != nil {
		return fmt.Errorf("map %d bytes: %w", len(mem), err)
	}
	if len(mem) >= hugeBytes {
		_ = unix.Madvise(mem, unix.MADV_HUGEPAGE) // a kernel without huge pages is slower, no more
	}
	return nil
}

// mapPrivateOver replaces what is mapped at mem, whole pages, by zeroed memory that nobody shares.
func mapPrivateOver(mem []byte) error {
	base := unsafe.Pointer(unsafe.SliceData(mem))
	if _, err := unix.MmapPtr(-1, 0, base, uintptr(len(mem)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED); err != nil {
		return fmt.Errorf("map %d bytes: %w", len(mem), err)
	}
	return nil
}

func unmapMemory(mem []byte) {
	if len(mem) > 0 {
		_ = unix.MunmapPtr(unsafe.Pointer(unsafe.SliceData(mem)), uintptr(len(mem)))
	}
}

// noMemory makes the errors by which a system says that it has no more memory, addresses or descriptors errNoMemory.
func noMemory(err error) error {
	for _, e := range []error{unix.ENOMEM, unix.ENOSPC, unix.EFAULT, unix.EDQUOT, unix.EMFILE, unix.ENFILE, unix.EFBIG} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", errNoMemory, err)
		}
	}
	return err
}

// roundUp makes n a multiple of the page size that suits it.
func roundUp(n int) int {
	unit := os.Getpagesize()
	if n >= hugeBytes {
		unit = hugeBytes
	}
	return (n + unit - 1) / unit * unit
}
