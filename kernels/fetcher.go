package kernels

// Fetcher is a Device that moves values to the host beside its operations.
type Fetcher interface {
	Device
	// Fetch copies to dst what the operations that were enqueued before leave in src, and zeroes src. It does not wait: operations
	// that are enqueued afterwards run meanwhile. Until wait has returned, no operation may use src, and nobody dst.
	//
	// One goroutine calls wait, once, before Close; it need not be the device's. Its error is a *DeviceError. Memory of AllocHost is
	// fetched without a detour; with other memory Fetch itself may wait.
	Fetch(dst []float32, src Buffer) (wait func() error)
}
