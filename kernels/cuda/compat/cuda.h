// Stands before CUDA 13's header of this name (-I this folder first), for gorgonia.org/cu v0.9.6: that calls five functions whose
// names now mean newer versions with other parameters. libcuda.so.1 keeps the old versions, under their own names.
#include_next <cuda.h>
#if CUDA_VERSION >= 13000 && !defined(FARANDOLE_CUDA_COMPAT_H)
#define FARANDOLE_CUDA_COMPAT_H

#undef cuCtxCreate
#define cuCtxCreate cuCtxCreate_v2
CUresult CUDAAPI cuCtxCreate_v2(CUcontext *context, unsigned int flags, CUdevice device);

#undef cuMemAdvise
CUresult CUDAAPI cuMemAdvise(CUdeviceptr at, size_t count, CUmem_advise advice, CUdevice device);

#undef cuMemPrefetchAsync
CUresult CUDAAPI cuMemPrefetchAsync(CUdeviceptr at, size_t count, CUdevice to, CUstream stream);

#undef cuGraphGetEdges
CUresult CUDAAPI cuGraphGetEdges(CUgraph graph, CUgraphNode *from, CUgraphNode *to, size_t *count);

#undef cuGraphAddDependencies
CUresult CUDAAPI cuGraphAddDependencies(CUgraph graph, const CUgraphNode *from, const CUgraphNode *to, size_t count);

#endif
