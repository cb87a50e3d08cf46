//go:build fabric && cgo && linux

#include <rdma/fabric.h>
#include <stdlib.h>

// Before 1.18 the tcp provider keeps an answer to a remote read on the list of those that are awaited while it arrives. When the
// connection ends then, it is freed and reported twice, the second time without a context, which ofi_rxm does not survive. With
// remote writes nothing arrives that is on such a list. All ranks must agree, and ofi_rxm reads the variable once, from the first
// fi_getinfo on: so it is set while the program is loaded, before there are threads. A value that the user has set stays.
__attribute__((constructor)) static void write_in_rendezvous(void) {
	if (FI_VERSION_LT(fi_version(), FI_VERSION(1, 18)))
		setenv("FI_OFI_RXM_USE_RNDV_WRITE", "1", 0);
}
