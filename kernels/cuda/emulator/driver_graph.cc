// Graphs that are chains of kernels, copies in one dimension and memsets of words. It is stricter than a driver: a call may be changed only
// to other addresses, or to other parameters of the same kernel and grid.
#include "driver_state.h"

using driver::refuse;

namespace {

bool places(const CUDA_MEMCPY3D& p, const char* call) {
  const bool flat = p.Height == 1 && p.Depth == 1 && !p.srcXInBytes && !p.srcY && !p.srcZ && !p.dstXInBytes && !p.dstY && !p.dstZ && p.WidthInBytes;
  const bool known = (p.srcMemoryType == CU_MEMORYTYPE_DEVICE && p.dstMemoryType <= CU_MEMORYTYPE_DEVICE && p.dstMemoryType >= CU_MEMORYTYPE_HOST) ||
                     (p.srcMemoryType == CU_MEMORYTYPE_HOST && p.dstMemoryType == CU_MEMORYTYPE_DEVICE);
  if (!flat || !known) refuse(CUDA_ERROR_INVALID_VALUE, "%s: only copies in one dimension from or to the GPU are emulated", call);
  return flat && known;
}

bool words(const CUDA_MEMSET_NODE_PARAMS& p, const char* call) {
  const bool good = p.elementSize == 4 && p.height == 1 && p.width;
  if (!good) refuse(CUDA_ERROR_INVALID_VALUE, "%s: only memsets of words in one dimension are emulated", call);
  return good;
}

CUresult taken(driver::launch& l, const CUDA_KERNEL_NODE_PARAMS* p) {
  l = {p->func, {p->gridDimX, p->gridDimY, p->gridDimZ}, {p->blockDimX, p->blockDimY, p->blockDimZ}, p->sharedMemBytes, {}};
  return driver::prepare(l, p->kernelParams, p->extra);
}

// append adds a node behind the last one.
CUresult append(CUcontext c, CUgraph g, CUgraphNode* out, const CUgraphNode* after, size_t n, CUgraphNode_st node, const char* call) {
  if (!driver::own(c->graphs, g)) return refuse(CUDA_ERROR_INVALID_HANDLE, "%s to what is no graph", call);
  const bool chained = g->nodes.empty() ? n == 0 : n == 1 && after && *after == g->nodes.back().get();
  if (!chained) return refuse(CUDA_ERROR_INVALID_VALUE, "%s: only chains are emulated: each call after the one before", call);
  g->nodes.push_back(std::make_unique<CUgraphNode_st>(std::move(node)));
  *out = g->nodes.back().get();
  return CUDA_SUCCESS;
}

// find gives a node of an executable graph, nullptr for what is none.
CUgraphNode_st* find(CUcontext c, CUgraphExec e, CUgraphNode node, char kind, const char* call) {
  if (!driver::own(c->executables, e) || !driver::own(c->graphs, e->of)) {
    refuse(CUDA_ERROR_INVALID_HANDLE, "%s in what is no executable graph, or of a graph that was destroyed", call);
    return nullptr;
  }
  const auto n = e->nodes.find(node);
  if (n == e->nodes.end() || n->second.kind != kind) {
    refuse(CUDA_ERROR_INVALID_VALUE, "%s: no such node in this graph", call);
    return nullptr;
  }
  return &n->second;
}

}  // namespace

CUresult CUgraphNode_st::enqueue(CUcontext c, CUstream s) const {
  if (kind == 'k') return driver::start(c, s, kernel);
  if (kind == 'm') return cuMemsetD32Async(memset.dst, memset.value, memset.width, s);
  if (copy.srcMemoryType == CU_MEMORYTYPE_HOST) return cuMemcpyHtoDAsync(copy.dstDevice, copy.srcHost, copy.WidthInBytes, s);
  if (copy.dstMemoryType == CU_MEMORYTYPE_HOST) return cuMemcpyDtoHAsync(copy.dstHost, copy.srcDevice, copy.WidthInBytes, s);
  return cuMemcpyDtoDAsync(copy.dstDevice, copy.srcDevice, copy.WidthInBytes, s);
}

API(cuGraphCreate, CUgraph* g, unsigned) {
  IN_CONTEXT;
  *g = c->graphs.emplace(new CUgraph_st).first->get();
  return CUDA_SUCCESS;
}

API(cuGraphAddKernelNode, CUgraphNode* node, CUgraph g, const CUgraphNode* after, size_t n, const CUDA_KERNEL_NODE_PARAMS* p) {
  IN_CONTEXT;
  CUgraphNode_st made = {'k'};
  if (CUresult bad = taken(made.kernel, p)) return bad;
  return append(c, g, node, after, n, std::move(made), "cuGraphAddKernelNode");
}

API(cuGraphAddMemcpyNode, CUgraphNode* node, CUgraph g, const CUgraphNode* after, size_t n, const CUDA_MEMCPY3D* p, CUcontext in) {
  IN_CONTEXT;
  if (in != c || !places(*p, "cuGraphAddMemcpyNode")) return CUDA_ERROR_INVALID_VALUE;
  CUgraphNode_st made = {'c'};
  made.copy = *p;
  return append(c, g, node, after, n, std::move(made), "cuGraphAddMemcpyNode");
}

API(cuGraphAddMemsetNode, CUgraphNode* node, CUgraph g, const CUgraphNode* after, size_t n, const CUDA_MEMSET_NODE_PARAMS* p, CUcontext in) {
  IN_CONTEXT;
  if (in != c || !words(*p, "cuGraphAddMemsetNode")) return CUDA_ERROR_INVALID_VALUE;
  CUgraphNode_st made = {'m'};
  made.memset = *p;
  return append(c, g, node, after, n, std::move(made), "cuGraphAddMemsetNode");
}

API(cuGraphInstantiate, CUgraphExec* e, CUgraph g, unsigned long long flags) {
  IN_CONTEXT;
  if (!driver::own(c->graphs, g) || flags) return refuse(CUDA_ERROR_INVALID_VALUE, "cuGraphInstantiate of what is no graph, or with flags");
  if (!driver::asked().graphs) return CUDA_ERROR_NOT_SUPPORTED;
  CUgraphExec_st* made = c->executables.emplace(new CUgraphExec_st{g, {}, {}}).first->get();
  for (const auto& n : g->nodes) {
    made->nodes.emplace(n.get(), *n);
    made->order.push_back(n.get());
  }
  *e = made;
  return CUDA_SUCCESS;
}

API(cuGraphExecKernelNodeSetParams, CUgraphExec e, CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS* p) {
  IN_CONTEXT;
  CUgraphNode_st* n = find(c, e, node, 'k', "cuGraphExecKernelNodeSetParams");
  if (!n) return CUDA_ERROR_INVALID_VALUE;
  driver::launch l;
  if (CUresult bad = taken(l, p)) return bad;
  const driver::launch& old = n->kernel;
  if (l.f != old.f || memcmp(l.grid, old.grid, sizeof l.grid) || memcmp(l.block, old.block, sizeof l.block) || l.shared != old.shared) {
    return refuse(CUDA_ERROR_INVALID_VALUE, "cuGraphExecKernelNodeSetParams: %s in the place of %s, or another grid", l.f->kernel->name, old.f->kernel->name);
  }
  n->kernel = std::move(l);
  return CUDA_SUCCESS;
}

API(cuGraphExecMemcpyNodeSetParams, CUgraphExec e, CUgraphNode node, const CUDA_MEMCPY3D* p, CUcontext in) {
  IN_CONTEXT;
  CUgraphNode_st* n = find(c, e, node, 'c', "cuGraphExecMemcpyNodeSetParams");
  if (!n || in != c || !places(*p, "cuGraphExecMemcpyNodeSetParams")) return CUDA_ERROR_INVALID_VALUE;
  if (p->WidthInBytes != n->copy.WidthInBytes || p->srcMemoryType != n->copy.srcMemoryType || p->dstMemoryType != n->copy.dstMemoryType) {
    return refuse(CUDA_ERROR_INVALID_VALUE, "cuGraphExecMemcpyNodeSetParams: another size, or other kinds of memory");
  }
  n->copy = *p;
  return CUDA_SUCCESS;
}

API(cuGraphExecMemsetNodeSetParams, CUgraphExec e, CUgraphNode node, const CUDA_MEMSET_NODE_PARAMS* p, CUcontext in) {
  IN_CONTEXT;
  CUgraphNode_st* n = find(c, e, node, 'm', "cuGraphExecMemsetNodeSetParams");
  if (!n || in != c || !words(*p, "cuGraphExecMemsetNodeSetParams")) return CUDA_ERROR_INVALID_VALUE;
  if (p->width != n->memset.width) return refuse(CUDA_ERROR_INVALID_VALUE, "cuGraphExecMemsetNodeSetParams: another size");
  n->memset = *p;
  return CUDA_SUCCESS;
}

// A launch has the parameters of its moment.
API(cuGraphLaunch, CUgraphExec e, CUstream s) {
  IN_CONTEXT;
  if (!driver::own(c->executables, e)) return refuse(CUDA_ERROR_INVALID_HANDLE, "cuGraphLaunch of what is no executable graph");
  for (CUgraphNode n : e->order) {
    if (CUresult bad = e->nodes.at(n).enqueue(c, s)) return bad;
  }
  return CUDA_SUCCESS;
}

API(cuGraphExecDestroy, CUgraphExec e) {
  IN_CONTEXT;
  return driver::drop(c->executables, e) ? CUDA_SUCCESS : refuse(CUDA_ERROR_INVALID_HANDLE, "cuGraphExecDestroy of what is no executable graph");
}

API(cuGraphDestroy, CUgraph g) {
  IN_CONTEXT;
  return driver::drop(c->graphs, g) ? CUDA_SUCCESS : refuse(CUDA_ERROR_INVALID_HANDLE, "cuGraphDestroy of what is no graph");
}
