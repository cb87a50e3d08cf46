//go:build cuda

#include "driver.h"

#include <cuda.h>

// A call is added behind the last one while there is no executable graph, and changed in that when there is one.

int farandole_graph_begin(struct farandole_graph *g) { return cuGraphCreate((CUgraph *)&g->graph, 0); }

static const CUgraphNode *behind(struct farandole_graph *g) { return g->last == NULL ? NULL : (const CUgraphNode *)&g->last; }

static int added(struct farandole_graph *g, void **node, int code) {
	if (code == CUDA_SUCCESS) g->last = *node;
	return code;
}

int farandole_graph_kernel(struct farandole_graph *g, void **node, void *function, struct farandole_dim grid, struct farandole_dim block, unsigned shared, uint64_t *args, int n) {
	void *params[FARANDOLE_MAX_ARGS];
	for (int i = 0; i < n; i++) params[i] = &args[i];
	CUDA_KERNEL_NODE_PARAMS p = {
		.func = function, .gridDimX = grid.x, .gridDimY = grid.y, .gridDimZ = grid.z, .blockDimX = block.x, .blockDimY = block.y, .blockDimZ = block.z,
		.sharedMemBytes = shared, .kernelParams = params};
	if (g->exec != NULL) return cuGraphExecKernelNodeSetParams(g->exec, *node, &p);
	return added(g, node, cuGraphAddKernelNode((CUgraphNode *)node, g->graph, behind(g), g->last != NULL, &p));
}

int farandole_graph_zeros(struct farandole_graph *g, void **node, void *ctx, uint64_t at, uint64_t values) {
	CUDA_MEMSET_NODE_PARAMS p = {.dst = at, .elementSize = 4, .width = values, .height = 1};
	if (g->exec != NULL) return cuGraphExecMemsetNodeSetParams(g->exec, *node, &p, ctx);
	return added(g, node, cuGraphAddMemsetNode((CUgraphNode *)node, g->graph, behind(g), g->last != NULL, &p, ctx));
}

int farandole_graph_copy(struct farandole_graph *g, void **node, void *ctx, void *host_to, uint64_t to, void *host_from, uint64_t from, uint64_t bytes) {
	CUDA_MEMCPY3D p = {
		.srcMemoryType = host_from != NULL ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE, .srcHost = host_from, .srcDevice = from,
		.dstMemoryType = host_to != NULL ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE, .dstHost = host_to, .dstDevice = to,
		.WidthInBytes = bytes, .Height = 1, .Depth = 1};
	if (g->exec != NULL) return cuGraphExecMemcpyNodeSetParams(g->exec, *node, &p, ctx);
	return added(g, node, cuGraphAddMemcpyNode((CUgraphNode *)node, g->graph, behind(g), g->last != NULL, &p, ctx));
}

int farandole_graph_end(struct farandole_graph *g) { return cuGraphInstantiate((CUgraphExec *)&g->exec, g->graph, 0); }

int farandole_graph_launch(struct farandole_graph *g, void *stream) { return cuGraphLaunch(g->exec, stream); }

int farandole_graph_drop(struct farandole_graph *g) {
	int code = g->exec == NULL ? CUDA_SUCCESS : cuGraphExecDestroy(g->exec);
	int other = g->graph == NULL ? CUDA_SUCCESS : cuGraphDestroy(g->graph);
	*g = (struct farandole_graph){NULL, NULL, NULL};
	return code != CUDA_SUCCESS ? code : other;
}
