package kernels

// Sharer is a Device whose buffers other processes of its host can read where they are. What one process exports, another
// imports, on the same device or on one that reaches it; where that is not possible Import says why, and the device is as good as
// before. As all of a Device it is used by one goroutine at a time.
//
// Nothing keeps the two processes in step: what an importer reads is there once the exporter's Sync has returned, and the exporter must not
// write what may be read.
type Sharer interface {
	Device
	// Export gives a handle of at most MaxHandle bytes with which other processes find b as it is now and will be. The memory must not go
	// while one of them has it: the caller keeps a reference to b until no other process uses what it imported.
	Export(b Buffer) (handle []byte, err error)
	// Import gives the buffer of another process, to be read alone, until Release.
	Import(handle []byte) (Buffer, error)
	// Release waits for what was enqueued, and ends an import: neither the buffer nor a slice of it may be used afterwards. It works on a
	// device that failed as well.
	Release(imported Buffer) error
}

// MaxHandle is the most bytes of a handle.
const MaxHandle = 128
