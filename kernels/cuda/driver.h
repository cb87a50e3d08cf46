#ifndef FARANDOLE_CUDA_DRIVER_H
#define FARANDOLE_CUDA_DRIVER_H

#include <stddef.h>
#include <stdint.h>

// farandole_load_driver finds libcuda.so.1 and initialises it. It is called once, before any other call of the driver. Other
// results than 0 leave the reason in why.
int farandole_load_driver(char *why, size_t len);

// farandole_describe is the driver's sentence for an error.
const char *farandole_describe(int code);

// What gorgonia.org/cu lacks: memory of the host that the driver locks, and more shared memory for a kernel than every GPU has.
// Results are the driver's.
int farandole_register(void *host, size_t bytes);
int farandole_unregister(void *host);
int farandole_share(void *function, int bytes);

// farandole_uuid gives the FARANDOLE_UUID_BYTES bytes of a GPU's UUID, or those of the part of one that this process has.
#define FARANDOLE_UUID_BYTES 16
int farandole_uuid(int gpu, unsigned char *id);

// Memory that other processes of the host can reach. A handle has FARANDOLE_IPC_BYTES bytes and means the whole allocation that at lies in, offset
// bytes before at; what is opened is that allocation.
#define FARANDOLE_IPC_BYTES 64
int farandole_ipc_get(uint64_t at, void *handle, uint64_t *offset);
int farandole_ipc_open(const void *handle, uint64_t *base);
int farandole_ipc_close(uint64_t base);

// farandole_launch launches a kernel with n parameters, at most FARANDOLE_MAX_ARGS, boxed in eight bytes each. gorgonia.org/cu lays out
// their addresses in memory of C's by Go's assignments: when the garbage collector is at work these hand it what malloc left there,
// and the program ends when that looks like a pointer.
#define FARANDOLE_MAX_ARGS 32
struct farandole_dim {
	unsigned x, y, z;
};
int farandole_launch(void *function, struct farandole_dim grid, struct farandole_dim block, unsigned shared, void *stream, uint64_t *args, int n);

// A chain of calls that is launched as one. A graph begins as zeros and with farandole_graph_begin; calls are added in their order, which sets *node;
// farandole_graph_end makes it one that can be launched. After that the same calls change what the node does in launches to come: other addresses
// and parameters of the same kernel with the same grid, other memory for as many bytes. A copy is to or from the
// device where the host's address is NULL. farandole_graph_drop may be called at any time, also while a launch runs.
struct farandole_graph {
	void *graph, *exec, *last;
};
int farandole_graph_begin(struct farandole_graph *g);
int farandole_graph_kernel(struct farandole_graph *g, void **node, void *function, struct farandole_dim grid, struct farandole_dim block, unsigned shared, uint64_t *args, int n);
int farandole_graph_zeros(struct farandole_graph *g, void **node, void *ctx, uint64_t at, uint64_t values);
int farandole_graph_copy(struct farandole_graph *g, void **node, void *ctx, void *host_to, uint64_t to, void *host_from, uint64_t from, uint64_t bytes);
int farandole_graph_end(struct farandole_graph *g);
int farandole_graph_launch(struct farandole_graph *g, void *stream);
int farandole_graph_drop(struct farandole_graph *g);

#endif
