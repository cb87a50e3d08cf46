#ifndef FARANDOLE_CUDA_NCCL_H
#define FARANDOLE_CUDA_NCCL_H

#include <stddef.h>
#include <stdint.h>

// farandole_nccl_load finds the library of this file name, and gives its version. Other results than 0 leave the reason in why. It is called before
// any other of these. Their results are the library's: FARANDOLE_NCCL_IN_PROGRESS says that farandole_nccl_state is to be asked
// until it says something else.
int farandole_nccl_load(const char *file, int *version, char *why, size_t len);
const char *farandole_nccl_describe(int status);
#define FARANDOLE_NCCL_IN_PROGRESS 7

// farandole_nccl_id names a communicator to be, in FARANDOLE_NCCL_ID_BYTES bytes.
#define FARANDOLE_NCCL_ID_BYTES 128
int farandole_nccl_id(void *id);

// A communicator belongs to the context that is current, and never has its caller wait. What it is given by a result that is an error may be NULL.
int farandole_nccl_join(void **comm, const void *id, int rank, int world);
int farandole_nccl_state(void *comm);
// farandole_nccl_abort ends what the communicator has yet to do, and frees it.
int farandole_nccl_abort(void *comm);

// Messages of float32 go together, in order with the stream.
struct farandole_nccl_message {
	uint64_t at, values;
	int peer, receive;
};
int farandole_nccl_swap(void *comm, const struct farandole_nccl_message *messages, int n, void *stream);

// farandole_nccl_query is the driver's answer on whether the stream has done all that it had to do, one of these or an error.
#define FARANDOLE_STREAM_DONE 0
#define FARANDOLE_STREAM_BUSY 600
int farandole_nccl_query(void *stream);

#endif
