package kernels

// CutFinely makes a device of NewCPU cut every operation into as many parts as it has threads, however small.
func CutFinely(d Device) { d.(*hostDevice).minPartWork = 1 }
