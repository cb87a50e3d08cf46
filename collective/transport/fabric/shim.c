//go:build fabric && cgo && linux

#include "shim.h"

#include <errno.h>
#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_tagged.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

struct op {
	struct fi_context2 context; // first: libfabric gives its address back
	uint64_t id;
};

struct fab {
	struct fi_info *info;
	struct fid_fabric *fabric;
	struct fid_domain *domain;
	struct fid_av *av;
	struct fid_cq *cq;
	struct fid_ep *ep;
	struct fid_mr *mr;
	void *desc; // of the staging memory
	fi_addr_t *peers;
	uint64_t npeers;
	struct op *ops;
	char *staging;
	size_t staging_bytes;
	int direct;
	int sleeps; // the completion queue cannot be waited for
	atomic_int woken;
};

enum { max_peers_hint = 64 };

static struct fi_info *wanted(const char *provider, uint64_t completion) {
	struct fi_info *h = fi_allocinfo();
	if (!h)
		return NULL;
	h->caps = FI_TAGGED | FI_SEND | FI_RECV;
	h->mode = FI_CONTEXT | FI_CONTEXT2;
	h->ep_attr->type = FI_EP_RDM;
	h->domain_attr->threading = FI_THREAD_SAFE;
	h->domain_attr->mr_mode = FI_MR_LOCAL | FI_MR_ALLOCATED | FI_MR_PROV_KEY | FI_MR_VIRT_ADDR;
	h->domain_attr->resource_mgmt = FI_RM_ENABLED;
	h->tx_attr->op_flags = completion;
	if (provider[0])
		h->fabric_attr->prov_name = strdup(provider);
	return h;
}

// usable skips providers that lose messages or emulate on top of others, unless asked for, and shared memory always: see
// docs/fabric.md.
static int usable(const struct fi_info *i, const char *provider) {
	static const char *const not[] = {"udp", "sockets", "net", NULL};
	const char *name = i->fabric_attr->prov_name;
	if (!strncmp(name, "shm", 3))
		return 0;
	for (int k = 0; !provider[0] && not[k]; k++)
		if (!strncmp(name, not[k], strlen(not[k])))
			return 0;
	return 1;
}

// fits says whether i can tell tags apart and take small messages whole.
static int fits(const struct fi_info *i, const fab_needs *needs) {
	uint64_t format = i->ep_attr->mem_tag_format; // its highest bit is the highest one of a tag
	int bits = format ? 64 - __builtin_clzll(format) : 0;
	return bits >= (int)needs->tag_bits && i->ep_attr->max_msg_size >= needs->least;
}

// pick takes the first provider that fits, bound to the interface of node if there is one.
static int pick(fab *f, const char *provider, const char *node, const fab_needs *needs, uint64_t completion) {
	struct fi_info *hints = wanted(provider, completion), *all = NULL;
	if (!hints)
		return -FI_ENOMEM;
	int rc = fi_getinfo(FI_VERSION(1, 15), node, NULL, node ? FI_SOURCE : 0, hints, &all);
	fi_freeinfo(hints);
	if (rc)
		return rc;
	for (struct fi_info *i = all; i && !f->info; i = i->next)
		if (usable(i, provider) && fits(i, needs))
			f->info = fi_dupinfo(i);
	fi_freeinfo(all);
	return f->info ? 0 : -FI_ENODATA;
}

// choose prefers an endpoint on node's interface, and then one that knows when a message has been delivered.
static int choose(fab *f, const char *provider, const char *node, const fab_needs *needs) {
	static const uint64_t completions[] = {FI_DELIVERY_COMPLETE, FI_TRANSMIT_COMPLETE};
	int rc = -FI_ENODATA;
	for (int bound = node[0] != 0; bound >= 0; bound--)
		for (int k = 0; k < 2; k++)
			if (!(rc = pick(f, provider, bound ? node : NULL, needs, completions[k])))
				return 0;
	return rc;
}

static int open_cq(fab *f, size_t ops) {
	struct fi_cq_attr attr = {.size = ops, .format = FI_CQ_FORMAT_TAGGED, .wait_obj = FI_WAIT_UNSPEC};
	if (!fi_cq_open(f->domain, &attr, &f->cq, NULL))
		return 0;
	f->sleeps = 1;
	attr.wait_obj = FI_WAIT_NONE;
	return fi_cq_open(f->domain, &attr, &f->cq, NULL);
}

// direct says whether the provider reads and writes any posted memory by the CPU. One that leaves it to a device has to pin
// the memory, and those that do not ask for registration keep pages of a cache pinned that they drop when libc gives memory
// back. The Go runtime gives memory back without libc, so the device could go on with pages that are no longer there.
static int direct(const struct fi_info *i) {
	static const char *const copies[] = {"tcp", "net", "sockets", "udp", NULL};
	for (int k = 0; copies[k]; k++)
		if (!strncmp(i->fabric_attr->prov_name, copies[k], strlen(copies[k])))
			return !(i->domain_attr->mr_mode & FI_MR_LOCAL);
	return 0;
}

static int open_staging(fab *f, size_t bytes) {
	void *m = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m == MAP_FAILED)
		return -FI_ENOMEM;
	f->staging = m;
	f->staging_bytes = bytes;
	f->direct = direct(f->info);
	if (!(f->info->domain_attr->mr_mode & FI_MR_LOCAL))
		return 0;
	int rc = fi_mr_reg(f->domain, m, bytes, FI_SEND | FI_RECV, 0, 1, 0, &f->mr, NULL);
	if (!rc)
		f->desc = fi_mr_desc(f->mr);
	return rc;
}

int fab_open(fab **out, const char *provider, const char *node, const fab_needs *needs, const char **why) {
	fab *f = calloc(1, sizeof *f);
	int rc = -FI_ENOMEM;
	*why = "memory";
	if (!f)
		return rc;
	f->ops = calloc(needs->ops, sizeof *f->ops);
	f->peers = calloc(needs->ops, sizeof *f->peers); // there are fewer peers than operations
	if (!f->ops || !f->peers)
		goto fail;
	for (size_t i = 0; i < needs->ops; i++)
		f->ops[i].id = i;
	*why = "fi_getinfo";
	if ((rc = choose(f, provider, node, needs)))
		goto fail;
	*why = "fi_fabric";
	if ((rc = fi_fabric(f->info->fabric_attr, &f->fabric, NULL)))
		goto fail;
	*why = "fi_domain";
	if ((rc = fi_domain(f->fabric, f->info, &f->domain, NULL)))
		goto fail;
	struct fi_av_attr av = {.type = FI_AV_UNSPEC, .count = max_peers_hint};
	*why = "fi_av_open";
	if ((rc = fi_av_open(f->domain, &av, &f->av, NULL)))
		goto fail;
	*why = "fi_cq_open";
	if ((rc = open_cq(f, needs->ops)))
		goto fail;
	*why = "fi_endpoint";
	if ((rc = fi_endpoint(f->domain, f->info, &f->ep, NULL)) || (rc = fi_ep_bind(f->ep, &f->av->fid, 0)) ||
	    (rc = fi_ep_bind(f->ep, &f->cq->fid, FI_TRANSMIT | FI_RECV)) || (rc = fi_enable(f->ep)))
		goto fail;
	*why = "fi_mr_reg";
	if ((rc = open_staging(f, needs->staging_bytes)))
		goto fail;
	*out = f;
	return 0;
fail:
	if (f)
		fab_close(f);
	return rc;
}

void fab_close(fab *f) {
	if (f->ep)
		fi_close(&f->ep->fid);
	if (f->mr)
		fi_close(&f->mr->fid);
	if (f->cq)
		fi_close(&f->cq->fid);
	if (f->av)
		fi_close(&f->av->fid);
	if (f->domain)
		fi_close(&f->domain->fid);
	if (f->fabric)
		fi_close(&f->fabric->fid);
	if (f->info)
		fi_freeinfo(f->info);
	if (f->staging)
		munmap(f->staging, f->staging_bytes);
	free(f->peers);
	free(f->ops);
	free(f);
}

const char *fab_provider(const fab *f) { return f->info->fabric_attr->prov_name; }
const char *fab_strerror(int err) { return fi_strerror(err < 0 ? -err : err); }
void *fab_staging(const fab *f) { return f->staging; }
size_t fab_max_message(const fab *f) { return f->info->ep_attr->max_msg_size; }
int fab_direct(const fab *f) { return f->direct; }
int fab_name(fab *f, void *addr, size_t *len) { return fi_getname(&f->ep->fid, addr, len); }
int fab_again(int err) { return err == -FI_EAGAIN; }

int fab_insert(fab *f, const void *addr, uint64_t i) {
	int n = fi_av_insert(f->av, addr, 1, &f->peers[i], 0, NULL);
	return n == 1 ? 0 : n < 0 ? n : -FI_EINVAL;
}

int fab_send(fab *f, uint64_t op, const void *b, size_t n, uint64_t to, uint64_t tag) {
	return (int)fi_tsend(f->ep, b, n, f->desc, f->peers[to], tag, &f->ops[op].context);
}

int fab_recv(fab *f, uint64_t op, void *b, size_t n, uint64_t tag) {
	return (int)fi_trecv(f->ep, b, n, f->desc, FI_ADDR_UNSPEC, tag, 0, &f->ops[op].context);
}

static int failed(fab *f, fab_done *out) {
	struct fi_cq_err_entry e = {0};
	if (fi_cq_readerr(f->cq, &e, 0) != 1 || !e.op_context)
		return 0;
	out->op = ((struct op *)e.op_context)->id;
	out->bytes = e.len;
	out->err = e.err ? e.err : FI_EIO;
	return 1;
}

static int take(fab *f, fab_done *out, int max, int millis) {
	struct fi_cq_tagged_entry got[16];
	if (max > 16)
		max = 16;
	ssize_t n = millis ? fi_cq_sread(f->cq, got, (size_t)max, NULL, millis) : fi_cq_read(f->cq, got, (size_t)max);
	if (n == -FI_EAVAIL)
		return failed(f, out);
	for (ssize_t i = 0; i < n; i++)
		out[i] = (fab_done){((struct op *)got[i].op_context)->id, got[i].len, 0};
	return n > 0 ? (int)n : 0;
}

int fab_poll(fab *f, fab_done *out, int max, int spins, int millis) {
	int n;
	for (int i = 0; i <= spins; i++) {
		if ((n = take(f, out, max, 0)))
			return n;
		if (atomic_exchange(&f->woken, 0))
			return 0;
		if (i % 8 == 7)
			sched_yield();
	}
	if (millis == 0)
		return 0;
	if (!f->sleeps)
		return take(f, out, max, millis);
	struct timespec start, now, nap = {0, 20000};
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (;;) {
		nanosleep(&nap, NULL);
		if ((n = take(f, out, max, 0)) || atomic_exchange(&f->woken, 0))
			return n;
		clock_gettime(CLOCK_MONOTONIC, &now);
		if ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 >= millis)
			return 0;
	}
}

void fab_wake(fab *f) {
	atomic_store(&f->woken, 1);
	if (!f->sleeps)
		fi_cq_signal(f->cq);
}
