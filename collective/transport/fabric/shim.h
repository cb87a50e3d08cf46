// The part of libfabric that this package uses, with plain types: one endpoint for reliable datagrams with tagged
// messages, its completion queue, and memory for staging. All functions return 0 or a negative errno of libfabric's.
#ifndef FARANDOLE_FABRIC_SHIM_H
#define FARANDOLE_FABRIC_SHIM_H

#include <stddef.h>
#include <stdint.h>

typedef struct fab fab;

typedef struct {
	size_t ops;           // operations at a time
	size_t staging_bytes; // of memory for staging
	size_t least;         // bytes of a message that must pass whole
	unsigned tag_bits;
} fab_needs;

// A completion: which operation ended, how many bytes it moved, and 0 or a positive errno.
typedef struct {
	uint64_t op;
	uint64_t bytes;
	int err;
} fab_done;

// fab_open opens an endpoint on provider (empty: the first that fits) bound to the interface of the address node (empty:
// any). why gets what failed.
int fab_open(fab **out, const char *provider, const char *node, const fab_needs *needs, const char **why);

// fab_close ends the endpoint: when it returns, nothing refers to any posted buffer. No other call may be running.
void fab_close(fab *f);

const char *fab_provider(const fab *f);
const char *fab_strerror(int err);
void *fab_staging(const fab *f);
size_t fab_max_message(const fab *f);

// fab_direct says whether any memory may be posted. Else everything must be posted from the staging memory.
int fab_direct(const fab *f);

// fab_name copies the endpoint's address; *len is the room before and the length after.
int fab_name(fab *f, void *addr, size_t *len);

// fab_insert makes addr peer number i.
int fab_insert(fab *f, const void *addr, uint64_t i);

// fab_send and fab_recv post operation op, which must have ended since it was posted last. -FI_EAGAIN means: poll, then
// try again. A send ends when b is the caller's again; that it has been delivered is what libfabric was asked for, and
// not what all providers mean by it.
int fab_send(fab *f, uint64_t op, const void *b, size_t n, uint64_t to, uint64_t tag);
int fab_recv(fab *f, uint64_t op, void *b, size_t n, uint64_t tag);
int fab_again(int err);

// fab_poll gives up to max completions: at once if there are any, else after polling spins times, else after waiting for
// up to millis. Another thread may end the wait by fab_wake. It returns their number. One call at a time.
int fab_poll(fab *f, fab_done *out, int max, int spins, int millis);
void fab_wake(fab *f);

#endif
