// NCCL for tests: the part that package cuda calls, among processes of one host. What is sent goes through sockets of the host, in the order of the driver
// for tests: received memory is written when the stream comes to it and the message is there, and until then the stream stands still, also after
// the sender has died, as a GPU's does. It is stricter than the library: it refuses what is not described in full, and says on standard error why.
// Nothing happens to a group before its caller has asked twice how the communicator is.
//
//   FARANDOLE_EMULATOR_NCCL_VERSION=n   the version that it says it has (22703)
//   FARANDOLE_EMULATOR_NCCL_FAIL=n      rank n of a communicator cannot begin
#include <fcntl.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "../nccl_types.h"
#include "driver_library.h"
#include "refuse.h"

#define NCCL_ENTRY(result, name, params) extern "C" __attribute__((visibility("default"))) result name params;
#include "../nccl_entries.h"
#undef NCCL_ENTRY

const char* const emulated::name = "NCCL";

namespace {

using emulated::number;
using emulated::refuse;

// gpu_of is the number of the current context's GPU, or -1.
int gpu_of() {
  auto* context = of_driver<emulated_context_t>("emulated_context");
  int gpu = -1;
  return context && context(&gpu) == 0 ? gpu : -1;
}

// ---- sockets, which end with their process

using name = char[48];  // of a socket, in the host's own space of names

struct socket_file {
  int fd = -1;
  socket_file() = default;
  explicit socket_file(int f) : fd(f) {}
  socket_file(socket_file&& s) noexcept : fd(s.fd) { s.fd = -1; }
  socket_file& operator=(socket_file&& s) noexcept {
    std::swap(fd, s.fd);
    return *this;
  }
  ~socket_file() {
    if (fd >= 0) close(fd);
  }
};

socket_file made() { return socket_file(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)); }

sockaddr_un at(const name& n) {
  sockaddr_un a = {};
  a.sun_family = AF_UNIX;
  memcpy(a.sun_path + 1, n, sizeof n);
  return a;
}

constexpr socklen_t address_len = offsetof(sockaddr_un, sun_path) + 1 + sizeof(name);

socket_file listening(name& n) {
  unsigned long r = 0;
  if (getrandom(&r, sizeof r, 0) != sizeof r) return {};
  memset(n, 0, sizeof n);
  snprintf(n, sizeof n, "emulated NCCL %d %lx", getpid(), r);
  socket_file s = made();
  const sockaddr_un a = at(n);
  if (s.fd < 0 || bind(s.fd, reinterpret_cast<const sockaddr*>(&a), address_len) != 0 || listen(s.fd, 64) != 0) return {};
  return s;
}

socket_file connected(const name& n) {
  socket_file s = made();
  const sockaddr_un a = at(n);
  if (s.fd < 0 || connect(s.fd, reinterpret_cast<const sockaddr*>(&a), address_len) != 0) return {};
  return s;
}

// readable waits until one of two files can be read, the second of which has it give up. Either may be -1.
bool readable(int fd, int stop) {
  pollfd p[] = {{fd, POLLIN, 0}, {stop, POLLIN, 0}};
  while (poll(p, 2, -1) < 0) {
    if (errno != EINTR) return false;
  }
  return p[1].revents == 0;
}

bool give(int fd, const void* from, size_t n) {
  for (const char* p = static_cast<const char*>(from); n > 0;) {
    const ssize_t part = send(fd, p, n, MSG_NOSIGNAL);
    if (part <= 0 && errno != EINTR) return false;
    if (part > 0) p += part, n -= static_cast<size_t>(part);
  }
  return true;
}

bool take(int fd, void* to, size_t n, int stop) {
  for (char* p = static_cast<char*>(to); n > 0;) {
    if (!readable(fd, stop)) return false;
    const ssize_t part = recv(fd, p, n, 0);
    if (part <= 0 && !(part < 0 && errno == EINTR)) return false;
    if (part > 0) p += part, n -= static_cast<size_t>(part);
  }
  return true;
}

// ---- how the ranks meet

// What a rank says of itself.
struct hello {
  int rank, world;
  char gpu[16];
  name listens;
};

// An id is the name of the socket where somebody tells the ranks of each other.
struct meeting {
  char magic[16];
  name where;
};
constexpr char magic[16] = "emulated NCCL";
static_assert(sizeof(meeting) <= sizeof(nccl_id), "an id has room for it");

nccl_status mistake(const std::vector<hello>& all) {
  const int world = all[0].world;
  for (size_t i = 0; i < all.size(); i++) {
    if (all[i].world != world) return refuse(NCCL_INVALID_USAGE, "ranks of %d and of %d in one communicator", world, all[i].world);
    for (size_t j = 0; j < i; j++) {
      if (all[i].rank == all[j].rank) return refuse(NCCL_INVALID_USAGE, "two of rank %d", all[i].rank);
      if (memcmp(all[i].gpu, all[j].gpu, sizeof all[i].gpu) == 0) return refuse(NCCL_INVALID_USAGE, "duplicate GPU: ranks %d and %d are on one", all[j].rank, all[i].rank);
    }
  }
  return NCCL_OK;
}

// lead takes the ranks' hellos and gives all of them to each, and when each is ready says so. All wait for it until then, and it is how they know that
// one of them is gone.
void lead(socket_file listener) {
  std::vector<socket_file> ranks;
  std::vector<hello> all;
  std::vector<bool> ready;
  nccl_status status = NCCL_OK;
  for (size_t done = 0; status == NCCL_OK && (all.empty() || done < static_cast<size_t>(all[0].world));) {
    std::vector<pollfd> p = {{listener.fd, POLLIN, 0}};
    for (const auto& r : ranks) p.push_back({r.fd, POLLIN, 0});
    if (poll(p.data(), p.size(), -1) < 0) continue;
    for (size_t i = 1; i < p.size() && status == NCCL_OK; i++) {
      char word;
      if (!p[i].revents) continue;
      if (ready[i - 1] || recv(p[i].fd, &word, 1, 0) != 1) {
        status = NCCL_REMOTE_ERROR;
      } else {
        ready[i - 1] = true, done++;
      }
    }
    hello h;
    if (!p[0].revents) continue;
    socket_file s(accept4(listener.fd, nullptr, nullptr, SOCK_CLOEXEC));
    if (s.fd < 0) continue;
    if (!take(s.fd, &h, sizeof h, -1)) {
      status = NCCL_REMOTE_ERROR;
      break;
    }
    ranks.push_back(std::move(s)), all.push_back(h), ready.push_back(false);
    if ((status = mistake(all)) != NCCL_OK || all.size() < static_cast<size_t>(h.world)) continue;
    std::vector<hello> ordered(all);
    for (const hello& one : all) ordered[static_cast<size_t>(one.rank)] = one;
    for (const auto& r : ranks) give(r.fd, &status, sizeof status) && give(r.fd, ordered.data(), ordered.size() * sizeof(hello));
  }
  for (const auto& r : ranks) give(r.fd, &status, sizeof status);
}

// ---- communicators

struct peer {
  socket_file link;
  std::deque<std::vector<char>> arrived;
  std::vector<char> arriving, leaving;
};

struct operation {
  bool receive;
  char* at;
  size_t bytes;
  int rank;
  bool done = false;
};

// What the ops of a group are enqueued as.
struct group {
  std::vector<operation> ops;
  void* stream = nullptr;
  bool sent = false;
};

struct communicator {
  int rank, world, gpu;
  nccl_id id;
  char uuid[16];
  std::thread thread;  // connects, then moves bytes
  socket_file stop[2], wake[2];

  std::mutex lock;  // guards all that follows
  nccl_status state = NCCL_IN_PROGRESS;
  bool aborted = false;
  std::vector<peer> peers;
  std::unique_ptr<group> ended;  // was ended, and is not enqueued yet
  int asked = 0;                 // how often since then

  nccl_status meet();
  void carry();
  void run() {
    nccl_status met = meet();
    {
      const std::lock_guard<std::mutex> locked(lock);
      state = met;
    }
    if (met == NCCL_OK) carry();
  }
  void put(int to, const char* from, size_t n);
  bool perform(group& g);
};

nccl_status communicator::meet() {
  const auto& m = reinterpret_cast<const meeting&>(id);
  hello own = {rank, world, {}, {}};
  memcpy(own.gpu, uuid, sizeof uuid);
  const int end = stop[0].fd;
  socket_file listener = listening(own.listens), leader = connected(m.where);
  if (rank == number("FARANDOLE_EMULATOR_NCCL_FAIL", -1)) return NCCL_SYSTEM_ERROR;
  nccl_status status;
  std::vector<hello> all(static_cast<size_t>(world));
  if (listener.fd < 0 || leader.fd < 0 || !give(leader.fd, &own, sizeof own) || !take(leader.fd, &status, sizeof status, end)) return NCCL_REMOTE_ERROR;
  if (status != NCCL_OK) return status;
  if (!take(leader.fd, all.data(), all.size() * sizeof(hello), end)) return NCCL_REMOTE_ERROR;
  std::vector<socket_file> links(static_cast<size_t>(world));
  for (int r = 0; r < rank; r++) {
    socket_file s = connected(all[static_cast<size_t>(r)].listens);
    if (s.fd < 0 || !give(s.fd, &rank, sizeof rank)) return NCCL_REMOTE_ERROR;
    links[static_cast<size_t>(r)] = std::move(s);
  }
  for (int r = rank + 1; r < world; r++) {
    pollfd p[] = {{listener.fd, POLLIN, 0}, {leader.fd, POLLIN, 0}, {end, POLLIN, 0}};
    while (poll(p, 3, -1) < 0) {
    }
    int from;
    if (p[1].revents || p[2].revents) return NCCL_REMOTE_ERROR;
    socket_file s(accept4(listener.fd, nullptr, nullptr, SOCK_CLOEXEC));
    if (s.fd < 0 || !take(s.fd, &from, sizeof from, end) || from <= rank || from >= world) return NCCL_REMOTE_ERROR;
    links[static_cast<size_t>(from)] = std::move(s);
  }
  if (!give(leader.fd, "r", 1) || !take(leader.fd, &status, sizeof status, end)) return NCCL_REMOTE_ERROR;
  const std::lock_guard<std::mutex> locked(lock);
  peers.resize(static_cast<size_t>(world));
  for (size_t r = 0; r < links.size(); r++) {
    if (links[r].fd >= 0) fcntl(links[r].fd, F_SETFL, O_NONBLOCK);
    peers[r].link = std::move(links[r]);
  }
  return status;
}

// carry moves bytes until stop. A peer that ends has the communicator in error; the stream goes on waiting.
void communicator::carry() {
  std::vector<char> buffer(1 << 16);
  for (;;) {
    std::vector<pollfd> p = {{stop[0].fd, POLLIN, 0}, {wake[0].fd, POLLIN, 0}};
    {
      const std::lock_guard<std::mutex> locked(lock);
      for (const peer& x : peers) p.push_back({x.link.fd, static_cast<short>(POLLIN | (x.leaving.empty() ? 0 : POLLOUT)), 0});
    }
    if (poll(p.data(), p.size(), -1) < 0) continue;
    if (p[0].revents) return;
    if (p[1].revents) (void)!read(p[1].fd, buffer.data(), buffer.size());
    const std::lock_guard<std::mutex> locked(lock);
    for (size_t i = 0; i < peers.size(); i++) {
      peer& x = peers[i];
      bool gone = false;
      if (p[i + 2].revents & POLLOUT) {
        const ssize_t n = send(x.link.fd, x.leaving.data(), x.leaving.size(), MSG_NOSIGNAL);
        if (n > 0) x.leaving.erase(x.leaving.begin(), x.leaving.begin() + n);
      }
      while (p[i + 2].revents & (POLLIN | POLLHUP | POLLERR)) {
        const ssize_t n = recv(x.link.fd, buffer.data(), buffer.size(), 0);
        if (n > 0) {
          x.arriving.insert(x.arriving.end(), buffer.begin(), buffer.begin() + n);
          continue;
        }
        gone = n == 0 || (errno != EAGAIN && errno != EINTR);
        break;
      }
      size_t bytes;
      while (x.arriving.size() >= sizeof bytes && (memcpy(&bytes, x.arriving.data(), sizeof bytes), x.arriving.size() - sizeof bytes >= bytes)) {
        const auto from = x.arriving.begin() + sizeof bytes;
        x.arrived.emplace_back(from, from + static_cast<ssize_t>(bytes));
        x.arriving.erase(x.arriving.begin(), from + static_cast<ssize_t>(bytes));
      }
      if (gone) {
        x.link = socket_file();
        state = NCCL_REMOTE_ERROR;
      }
    }
  }
}

void communicator::put(int to, const char* from, size_t n) {
  peer& x = peers[static_cast<size_t>(to)];
  if (to == rank) {
    x.arrived.emplace_back(from, from + n);
    return;
  }
  const char* head = reinterpret_cast<const char*>(&n);
  x.leaving.insert(x.leaving.end(), head, head + sizeof n);
  x.leaving.insert(x.leaving.end(), from, from + n);
  (void)!write(wake[1].fd, "w", 1);
}

// perform is what the stream does: false as long as a message is missing.
bool communicator::perform(group& g) {
  const std::lock_guard<std::mutex> locked(lock);
  if (aborted) return true;
  for (const operation& o : g.ops) {
    if (!o.receive && !g.sent) put(o.rank, o.at, o.bytes);
  }
  g.sent = true;
  bool all = true;
  for (operation& o : g.ops) {
    auto& from = peers[static_cast<size_t>(o.rank)].arrived;
    if (!o.receive || o.done) continue;
    if (!from.empty() && from.front().size() == o.bytes) {
      memcpy(o.at, from.front().data(), o.bytes);
      from.pop_front();
      o.done = true;
    } else if (!from.empty() && state == NCCL_OK) {
      state = refuse(NCCL_INVALID_USAGE, "rank %d wants %zu bytes of rank %d, which sends %zu", rank, o.bytes, o.rank, from.front().size());
    }
    all = all && o.done;
  }
  return all;
}

// The communicators that were not aborted. It outlives all threads.
std::mutex& lock = *new std::mutex;
auto& communicators = *new std::map<nccl_comm, std::shared_ptr<communicator>>;

std::shared_ptr<communicator> find(nccl_comm c, const char* call) {
  const std::lock_guard<std::mutex> locked(lock);
  const auto found = communicators.find(c);
  if (found != communicators.end()) return found->second;
  refuse(NCCL_INVALID_USAGE, "%s with what is no communicator, or was aborted", call);
  return nullptr;
}

// Of one thread: the group that is open.
thread_local bool open_group;
thread_local group gathered;
thread_local std::shared_ptr<communicator> of_gathered;
thread_local nccl_status bad_group;

nccl_status add(const char* call, bool receive, void* address, size_t count, nccl_type type, int rank, nccl_comm comm, nccl_stream stream) {
  const auto c = find(comm, call);
  const auto bad = [](nccl_status s) { return bad_group = s; };
  if (!c) return bad(NCCL_INVALID_ARGUMENT);
  if (!open_group) return bad(refuse(NCCL_INVALID_USAGE, "%s outside of a group", call));
  if (type != NCCL_FLOAT32 || count == 0 || rank < 0 || rank >= c->world) return bad(refuse(NCCL_INVALID_USAGE, "%s of %zu values of type %d with rank %d of %d", call, count, type, rank, c->world));
  if (of_gathered && (of_gathered != c || gathered.stream != stream)) return bad(refuse(NCCL_INVALID_USAGE, "a group with two communicators, or two streams"));
  if (gpu_of() != c->gpu) return bad(refuse(NCCL_INVALID_USAGE, "%s in the context of another GPU", call));
  {
    const std::lock_guard<std::mutex> locked(c->lock);
    if (c->state == NCCL_IN_PROGRESS) return bad(refuse(NCCL_INVALID_USAGE, "%s while the communicator is in progress", call));
    if (c->state != NCCL_OK) return bad(c->state);
  }
  of_gathered = c;
  gathered.stream = stream;
  gathered.ops.push_back({receive, static_cast<char*>(address), 4 * count, rank});
  return NCCL_OK;
}

// enqueue gives a group to the driver, which may do the work at once: the communicator is not locked.
nccl_status enqueue(const std::shared_ptr<communicator>& c, std::unique_ptr<group> g) {
  struct task {
    std::shared_ptr<communicator> c;
    std::unique_ptr<group> g;
  };
  auto* put = of_driver<emulated_enqueue_t>("emulated_enqueue");
  if (!put || gpu_of() != c->gpu) return refuse(NCCL_INVALID_USAGE, "a group is enqueued in the context of another GPU");
  std::vector<emulated_range> ranges;
  for (const operation& o : g->ops) ranges.push_back({o.at, o.bytes, o.receive});
  void* stream = g->stream;
  auto* t = new task{c, std::move(g)};
  const int bad = put(stream, "ncclGroupEnd", ranges.data(), static_cast<int>(ranges.size()),
                      [](void* x) { return static_cast<task*>(x)->c->perform(*static_cast<task*>(x)->g); }, [](void* x) { delete static_cast<task*>(x); }, t);
  return bad ? NCCL_INVALID_ARGUMENT : NCCL_OK;
}

}  // namespace

nccl_status ncclGetVersion(int* version) {
  *version = static_cast<int>(number("FARANDOLE_EMULATOR_NCCL_VERSION", 22703));
  return NCCL_OK;
}

const char* ncclGetErrorString(nccl_status status) {
  switch (status) {
    case NCCL_SYSTEM_ERROR:
      return "unhandled system error";
    case NCCL_INVALID_ARGUMENT:
      return "invalid argument";
    case NCCL_INVALID_USAGE:
      return "invalid usage";
    case NCCL_REMOTE_ERROR:
      return "remote process exited or there was a network error";
    case NCCL_IN_PROGRESS:
      return "operation in progress";
    default:
      return "unknown result code";
  }
}

nccl_status ncclGetUniqueId(nccl_id* id) {
  meeting m;
  memcpy(m.magic, magic, sizeof magic);
  socket_file listener = listening(m.where);
  if (listener.fd < 0) return NCCL_SYSTEM_ERROR;
  memset(id, 0, sizeof *id);
  memcpy(id, &m, sizeof m);
  std::thread([](socket_file s) { lead(std::move(s)); }, std::move(listener)).detach();
  return NCCL_OK;
}

nccl_status ncclCommInitRankConfig(nccl_comm* made, int world, nccl_id id, int rank, nccl_options* o) {
  *made = nullptr;
  if (o->size < sizeof *o || o->magic != NCCL_OPTIONS_MAGIC || o->version < NCCL_OPTIONS_VERSION) return refuse(NCCL_INVALID_USAGE, "options that were not initialized");
  if (o->blocking != 0) return refuse(NCCL_INVALID_USAGE, "only communicators that never block are emulated");
  if (memcmp(id.bytes, magic, sizeof magic) != 0) return refuse(NCCL_INVALID_ARGUMENT, "what is no id");
  if (world < 1 || rank < 0 || rank >= world) return refuse(NCCL_INVALID_ARGUMENT, "rank %d of %d", rank, world);
  if (open_group) return refuse(NCCL_INVALID_USAGE, "ncclCommInitRankConfig in a group");
  const auto c = std::make_shared<communicator>();
  auto* uuid = of_driver<int(char*, int)>("cuDeviceGetUuid");
  c->rank = rank, c->world = world, c->gpu = gpu_of(), c->id = id;
  if (c->gpu < 0 || !uuid || uuid(c->uuid, c->gpu) != 0) return refuse(NCCL_INVALID_USAGE, "ncclCommInitRankConfig without a context");
  for (auto* ends : {c->stop, c->wake}) {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0) return NCCL_SYSTEM_ERROR;
    ends[0] = socket_file(fds[0]), ends[1] = socket_file(fds[1]);
  }
  c->thread = std::thread([c = c.get()] { c->run(); });
  const std::lock_guard<std::mutex> locked(lock);
  communicators[c.get()] = c;
  *made = c.get();
  return NCCL_IN_PROGRESS;
}

nccl_status ncclCommGetAsyncError(nccl_comm comm, nccl_status* status) {
  const auto c = find(comm, "ncclCommGetAsyncError");
  if (!c) return NCCL_INVALID_ARGUMENT;
  std::unique_ptr<group> ready;
  {
    const std::lock_guard<std::mutex> locked(c->lock);
    *status = c->state;
    if (!c->ended || ++c->asked < 2) return NCCL_OK;
    ready = std::move(c->ended);
  }
  const nccl_status bad = enqueue(c, std::move(ready));
  const std::lock_guard<std::mutex> locked(c->lock);
  if (c->state == NCCL_IN_PROGRESS) c->state = bad;
  *status = c->state;
  return NCCL_OK;
}

// What the stream has of the communicator is done from now on, with whatever is there.
nccl_status ncclCommAbort(nccl_comm comm) {
  const auto c = find(comm, "ncclCommAbort");
  if (!c) return NCCL_INVALID_ARGUMENT;
  if (open_group) return refuse(NCCL_INVALID_USAGE, "ncclCommAbort in a group");
  {
    const std::lock_guard<std::mutex> locked(c->lock);
    c->aborted = true;
  }
  c->stop[1] = socket_file();
  c->thread.join();
  {
    const std::lock_guard<std::mutex> locked(c->lock);
    c->peers.clear();
  }
  const std::lock_guard<std::mutex> locked(lock);
  communicators.erase(comm);
  return NCCL_OK;
}

nccl_status ncclGroupStart() {
  if (open_group) return refuse(NCCL_INVALID_USAGE, "a group in a group");
  open_group = true, gathered = {}, of_gathered = nullptr, bad_group = NCCL_OK;
  return NCCL_OK;
}

nccl_status ncclGroupEnd() {
  if (!open_group) return refuse(NCCL_INVALID_USAGE, "ncclGroupEnd without ncclGroupStart");
  open_group = false;
  const auto c = std::move(of_gathered);
  if (bad_group != NCCL_OK || !c) return bad_group;
  const std::lock_guard<std::mutex> locked(c->lock);
  if (c->state != NCCL_OK) return c->state;
  c->ended = std::make_unique<group>(std::move(gathered));
  c->asked = 0;
  return c->state = NCCL_IN_PROGRESS;
}

nccl_status ncclSend(const void* from, size_t count, nccl_type type, int rank, nccl_comm comm, nccl_stream stream) {
  return add("ncclSend", false, static_cast<char*>(const_cast<void*>(from)), count, type, rank, comm, stream);
}

nccl_status ncclRecv(void* to, size_t count, nccl_type type, int rank, nccl_comm comm, nccl_stream stream) {
  return add("ncclRecv", true, static_cast<char*>(to), count, type, rank, comm, stream);
}
