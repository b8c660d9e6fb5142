// The emulation's state and schedule, and what the library offers (`emulated.rs` calls it).
#define CHASKI_FIBER_IMPLEMENTATION
#include "emulate.h"
#include "fiber.h"

#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace emulated {
namespace {

constexpr size_t STACK = 64 << 10, MAX_THREADS = 1024, MAX_SHARED = 227 << 10, MAX_STATIC = 48 << 10, ALT_STACK = 64 << 10;
constexpr unsigned BARRIERS = 16;

const size_t PAGE = static_cast<size_t>(sysconf(_SC_PAGESIZE));
size_t pages(size_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

// What must not be touched on both sides of an array: more than a page, or an index that is far off hits another array.
const size_t GUARD = pages(1 << 20);

// Memory between two guards.
struct Guarded {
  unsigned char *start = nullptr;
  size_t bytes = 0;
  explicit Guarded(size_t wanted) : bytes(pages(wanted)) {
    void *p = mmap(nullptr, bytes + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return;
    start = static_cast<unsigned char *>(p) + GUARD;
    if (mprotect(start, bytes, PROT_READ | PROT_WRITE) != 0) {
      munmap(p, bytes + 2 * GUARD);
      start = nullptr;
    }
  }
  Guarded(const Guarded &) = delete;
  Guarded &operator=(const Guarded &) = delete;
  ~Guarded() {
    if (start) munmap(start - GUARD, bytes + 2 * GUARD);
  }
};

struct Copy {
  void *to;
  const void *from;
  unsigned bytes, group;
  bool valid;
};

enum class Waits { No, Barrier, Exchange, Done };

struct Fiber {
  void *sp;
  Place place;
  Waits waits;
  unsigned on;  // barrier or mask
  std::vector<Copy> copies;
  unsigned groups;  // of copies, ended
};

struct Exchange {
  unsigned mask, arrived = 0, times = 0;
  Kind kind = Kind::SyncWarp;
  Words words[2];
  explicit Exchange(unsigned mask) : mask(mask) {}
};

struct Warp {
  unsigned all, ready, done;  // lanes
  std::vector<std::unique_ptr<Exchange>> exchanges;
};

struct Barrier {
  unsigned threads, arrived;
  unsigned lanes[MAX_THREADS / 32], waiting[MAX_THREADS / 32];
};

struct Static {
  const void *tag;
  size_t bytes;
  unsigned char *at;
};

// A launch; the memory serves one after the other.
struct Run {
  Guarded stacks{MAX_THREADS * (STACK + PAGE)}, shared{MAX_SHARED}, statics{MAX_STATIC}, alt{ALT_STACK};
  std::vector<Fiber> fibers{MAX_THREADS};
  std::vector<Warp> warps{MAX_THREADS / 32};
  Barrier barriers[BARRIERS];
  std::vector<Static> static_arrays;
  size_t static_bytes = 0;
  const Entry *entry = nullptr;
  const void *args = nullptr;
  unsigned threads = 0, shared_bytes = 0;
  void *scheduler = nullptr;
  Fiber *current = nullptr;
  bool failed = false, ordered = true;
  uint64_t random = 0;
  char message[512];
};

thread_local std::unique_ptr<Run> run_of_thread;
thread_local Run *run = nullptr;  // while a launch is under way

const Entry *entries = nullptr;

uint64_t draw() {  // splitmix64
  uint64_t z = run->random += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

void set_message(const char *format, va_list list) {
  int n = 0;
  if (const Fiber *fiber = run->current) {
    const uint3 &t = fiber->place.thread, &b = fiber->place.block;
    n = std::snprintf(run->message, sizeof run->message, "block (%u, %u, %u), thread %u: ", b.x, b.y, b.z, t.x);
  }
  std::vsnprintf(run->message + n, sizeof run->message - n, format, list);
  run->failed = true;
}

void leave() { chaski_switch(&run->current->sp, run->scheduler); }

void on_signal(int signal, siginfo_t *info, void *);
struct sigaction earlier[65];
const int SIGNALS[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE};

void take_signals() {
  struct sigaction action {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  for (int signal : SIGNALS) sigaction(signal, &action, &earlier[signal]);
}

void say(const char *format, ...) {
  va_list list;
  va_start(list, format);
  set_message(format, list);
  va_end(list);
}

// A fault of a kernel's thread ends the launch; others are whose they were before.
void on_signal(int signal, siginfo_t *info, void *) {
  if (!run || !run->current) {
    sigaction(signal, &earlier[signal], nullptr);
    return;
  }
  switch (signal) {
    case SIGSEGV:
    case SIGBUS: say("illegal access at %p", info->si_addr); break;
    case SIGFPE: say("division by zero"); break;
    default: say("what the language does not define: an access out of line, an index or a shift out of range");
  }
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  leave();
}

void begin_fiber() {
  run->entry->run(run->args);
  Fiber *fiber = run->current;
  const unsigned i = static_cast<unsigned>(fiber - run->fibers.data());
  fiber->waits = Waits::Done;
  run->warps[i / 32].done |= 1u << i % 32;
  leave();
}

Warp &own_warp(unsigned *index) {
  *index = static_cast<unsigned>(run->current - run->fibers.data());
  return run->warps[*index / 32];
}

void release(unsigned warp, unsigned lanes) {
  run->warps[warp].ready |= lanes;
  for (unsigned lane = 0; lane < 32; lane++)
    if (lanes >> lane & 1) run->fibers[32 * warp + lane].waits = Waits::No;
}

void wait(Waits waits, unsigned on) {
  run->current->waits = waits;
  run->current->on = on;
  leave();
}

void begin_block(uint3 block, uint3 grid) {
  std::memset(run->shared.start, 0xff, run->shared.bytes);
  std::memset(run->statics.start, 0xff, run->static_bytes);
  run->static_arrays.clear();
  run->static_bytes = 0;
  std::memset(run->barriers, 0, sizeof run->barriers);
  for (unsigned i = 0; i < run->threads; i++) {
    Fiber &fiber = run->fibers[i];
    fiber.place = {{i, 0, 0}, block, {run->threads, 1, 1}, grid};
    fiber.waits = Waits::No;
    fiber.copies.clear();
    fiber.groups = 0;
    // The lowest page of each stack is not to be touched.
    fiber.sp = new_fiber(run->stacks.start + (i + 1) * (STACK + PAGE), begin_fiber);
  }
  for (unsigned w = 0; w < run->threads / 32; w++) {
    Warp &warp = run->warps[w];
    warp.all = warp.ready = 0xffffffffu;
    warp.done = 0;
    for (auto &exchange : warp.exchanges) exchange->arrived = 0;
  }
}

// Runs each lane that is ready until it waits.
void step(unsigned w) {
  Warp &warp = run->warps[w];
  const bool down = !run->ordered && draw() & 1;
  const unsigned ready = warp.ready;
  warp.ready = 0;
  for (unsigned i = 0; i < 32 && !run->failed; i++) {
    const unsigned lane = down ? 31 - i : i;
    if (!(ready >> lane & 1)) continue;
    Fiber &fiber = run->fibers[32 * w + lane];
    run->current = &fiber;
    place = &fiber.place;
    chaski_switch(&run->scheduler, fiber.sp);
    if (!run->failed) run->current = nullptr;
  }
}

void stuck() {
  for (unsigned i = 0; i < run->threads; i++) {
    const Fiber &fiber = run->fibers[i];
    if (fiber.waits == Waits::Done) continue;
    run->current = &run->fibers[i];
    if (fiber.waits == Waits::Barrier) {
      const Barrier &barrier = run->barriers[fiber.on];
      return say("waits at barrier %u, which %u of %u threads reach", fiber.on, barrier.arrived, barrier.threads);
    }
    for (const auto &exchange : run->warps[i / 32].exchanges)
      if (exchange->mask == fiber.on)
        return say("waits for the lanes %#x to exchange, of which %#x come", fiber.on, exchange->arrived);
  }
}

void run_block() {
  const unsigned n_warps = run->threads / 32;
  unsigned w = 0;
  while (!run->failed) {
    // Half of the time the warp that ran goes on, else any.
    if (!run->ordered && draw() & 1) w = static_cast<unsigned>(draw() % n_warps);
    unsigned tried = 0;
    for (; tried < n_warps && !run->warps[w].ready; tried++) w = (w + 1) % n_warps;
    if (tried == n_warps) break;
    step(w);
  }
  if (run->failed) return;
  for (w = 0; w < n_warps; w++)
    if (run->warps[w].done != run->warps[w].all) return stuck();
  for (unsigned id = 0; id < BARRIERS; id++) {
    const Barrier &barrier = run->barriers[id];
    if (barrier.arrived) {
      run->current = &run->fibers[0];
      return say("barrier %u ends with %u of %u threads", id, barrier.arrived, barrier.threads);
    }
  }
}

// What surrounds an allocation, to its pages' ends, at most so many bytes; it is filled with 0xff.
constexpr size_t AROUND = 256;
struct Allocation {
  std::unique_ptr<Guarded> memory;
  size_t bytes;
  std::thread::id owner;
};
std::mutex allocations_lock;
std::map<unsigned char *, Allocation> allocations;

// Whether these bytes were written; they are filled again, so that it is told once.
bool written(unsigned char *from, unsigned char *to) {
  bool written = false;
  for (; from < to; from++) {
    written |= *from != 0xff;
    *from = 0xff;
  }
  return written;
}

// An allocation of this thread beside which something was written.
const unsigned char *overrun() {
  std::lock_guard<std::mutex> lock(allocations_lock);
  for (const auto &[at, allocation] : allocations) {
    if (allocation.owner != std::this_thread::get_id()) continue;
    unsigned char *start = allocation.memory->start, *end = start + allocation.memory->bytes;
    unsigned char *before = static_cast<size_t>(at - start) > AROUND ? at - AROUND : start;
    if (written(before, at) || written(at + allocation.bytes, end)) return at;
  }
  return nullptr;
}

}  // namespace

thread_local const Place *place = nullptr;

Entry::Entry(const char *name, size_t args_bytes, unsigned max_threads, void (*run)(const void *))
    : name(name), args_bytes(args_bytes), max_threads(max_threads), run(run), next(entries) {
  entries = this;
}

void fail(const char *format, ...) {
  va_list list;
  va_start(list, format);
  set_message(format, list);
  va_end(list);
  leave();
  __builtin_unreachable();
}

const Words &exchange(Kind kind, unsigned mask, const unsigned long long *words, int n) {
  unsigned index;
  Warp &warp = own_warp(&index);
  const unsigned lane = index % 32;
  if (!(mask >> lane & 1)) fail("lane %u takes part in an exchange of the lanes %#x", lane, mask);
  if (mask & warp.done) fail("an exchange of the lanes %#x, of which %#x have ended", mask, mask & warp.done);
  Exchange *exchange = nullptr;
  for (auto &known : warp.exchanges)
    if (known->mask == mask) exchange = known.get();
  if (!exchange) {
    warp.exchanges.push_back(std::make_unique<Exchange>(mask));
    exchange = warp.exchanges.back().get();
  }
  if (exchange->arrived == 0) exchange->kind = kind;
  if (exchange->kind != kind) fail("lanes of a warp meet in different operations");
  // Values of the last exchange may still be wanted by lanes that did not run since.
  Words &to = exchange->words[exchange->times % 2];
  for (int j = 0; j < n; j++) to[j][lane] = words[j];
  exchange->arrived |= 1u << lane;
  if (exchange->arrived == mask) {
    exchange->arrived = 0;
    exchange->times++;
    release(index / 32, mask & ~(1u << lane));
  } else {
    wait(Waits::Exchange, mask);
  }
  return to;
}

void barrier(unsigned id, unsigned threads, bool waits) {
  unsigned index;
  own_warp(&index);
  if (id >= BARRIERS || threads % 32 != 0 || threads == 0) fail("barrier %u of %u threads", id, threads);
  Barrier &barrier = run->barriers[id];
  if (barrier.arrived == 0) barrier.threads = threads;
  if (barrier.threads != threads) fail("barrier %u is one of %u threads and of %u", id, barrier.threads, threads);
  const unsigned w = index / 32, bit = 1u << index % 32;
  if (barrier.lanes[w] & bit) fail("comes to barrier %u a second time before the others", id);
  barrier.lanes[w] |= bit;
  if (waits) barrier.waiting[w] |= bit;
  if (++barrier.arrived == threads) {
    for (unsigned i = 0; i < run->threads / 32; i++) {
      if (barrier.lanes[i] != 0 && barrier.lanes[i] != run->warps[i].all)
        fail("barrier %u is reached by the lanes %#x of warp %u only", id, barrier.lanes[i], i);
      if (barrier.waiting[i] != 0 && barrier.waiting[i] != barrier.lanes[i]) fail("lanes of warp %u wait at barrier %u, others only arrive", i, id);
      release(i, i == w ? barrier.waiting[i] & ~bit : barrier.waiting[i]);
    }
    std::memset(&barrier, 0, sizeof barrier);
  } else if (waits) {
    wait(Waits::Barrier, id);
  }
}

void *dynamic_shared() {
  // Up to the page that must not be touched.
  return run->shared.start + run->shared.bytes - (run->shared_bytes + 15) / 16 * 16;
}

void *static_shared(const void *tag, size_t bytes) {
  for (const Static &known : run->static_arrays)
    if (known.tag == tag) return known.at;
  const size_t taken = (bytes + 15) / 16 * 16;
  if (run->static_bytes + taken > MAX_STATIC) fail("more than %zu bytes of static shared memory", MAX_STATIC);
  unsigned char *at = run->statics.start + run->static_bytes;
  run->static_bytes += taken;
  run->static_arrays.push_back({tag, bytes, at});
  return at;
}

void copy_async(void *shared, const void *global, unsigned bytes, bool valid) {
  const auto line = [&](const void *p) { return reinterpret_cast<uintptr_t>(p) % bytes; };
  if (line(shared) || line(global)) fail("an asynchronous copy of %u bytes from %p to %p", bytes, global, shared);
  const unsigned char *to = static_cast<unsigned char *>(shared);
  const auto within = [&](const Guarded &memory) { return to >= memory.start && to + bytes <= memory.start + memory.bytes; };
  if (!within(run->shared) && !within(run->statics)) fail("an asynchronous copy to %p, which is not shared memory", shared);
  std::memset(shared, 0xff, bytes);
  run->current->copies.push_back({shared, global, bytes, run->current->groups, valid});
}

void copy_commit() { run->current->groups++; }

void copy_wait(unsigned latest) {
  Fiber &fiber = *run->current;
  size_t kept = 0;
  for (const Copy &copy : fiber.copies) {
    if (copy.group + latest >= fiber.groups) {
      fiber.copies[kept++] = copy;
    } else if (copy.valid) {
      std::memcpy(copy.to, copy.from, copy.bytes);
    } else {
      std::memset(copy.to, 0, copy.bytes);
    }
  }
  fiber.copies.resize(kept);
}

}  // namespace emulated

namespace {

int low(unsigned long long word) { return static_cast<int>(static_cast<unsigned>(word)); }
int high(unsigned long long word) { return static_cast<int>(word >> 32); }
unsigned long long both(unsigned low, unsigned high) { return static_cast<unsigned long long>(high) << 32 | low; }

}  // namespace

void mma_m16n8k32_s8(int d[4], const unsigned a[4], const unsigned b[2]) {
  const unsigned long long mine[] = {both(a[0], a[1]), both(a[2], a[3]), both(b[0], b[1])};
  const emulated::Words &all = emulated::exchange(emulated::Kind::MmaK32, 0xffffffffu, mine, 3);
  const unsigned g = emulated::lane() / 4, t = emulated::lane() % 4;
  for (unsigned i = 0; i < 4; i++)
    for (unsigned k = 0; k < 4; k++) {
      const unsigned row = 4 * g + k, column = 4 * (2 * t + i % 2) + k;
      const unsigned long long first = all[0][row], second = all[1][row], w = all[2][column];
      d[i] = __dp4a(i < 2 ? low(first) : high(first), low(w), d[i]);
      d[i] = __dp4a(i < 2 ? low(second) : high(second), high(w), d[i]);
    }
}

void mma_m16n8k16_s8(int d[4], const unsigned a[2], unsigned b) {
  const unsigned long long mine[] = {both(a[0], a[1]), b};
  const emulated::Words &all = emulated::exchange(emulated::Kind::MmaK16, 0xffffffffu, mine, 2);
  const unsigned g = emulated::lane() / 4, t = emulated::lane() % 4;
  for (unsigned i = 0; i < 4; i++)
    for (unsigned k = 0; k < 4; k++) {
      const unsigned long long first = all[0][4 * g + k];
      d[i] = __dp4a(i < 2 ? low(first) : high(first), low(all[1][4 * (2 * t + i % 2) + k]), d[i]);
    }
}

using namespace emulated;

extern "C" {

// Memory for a kernel, aligned to 256 bytes and filled with 0xff; null where there is none.
void *chaski_emulated_alloc(size_t bytes) {
  auto memory = std::make_unique<Guarded>(bytes < 256 ? 256 : (bytes + 255) / 256 * 256);
  if (!memory->start) return nullptr;
  std::memset(memory->start, 0xff, memory->bytes);
  unsigned char *at = memory->start + memory->bytes - (bytes < 256 ? 256 : (bytes + 255) / 256 * 256);
  std::lock_guard<std::mutex> lock(allocations_lock);
  allocations[at] = Allocation{std::move(memory), bytes, std::this_thread::get_id()};
  return at;
}

void chaski_emulated_free(void *p) {
  std::lock_guard<std::mutex> lock(allocations_lock);
  allocations.erase(static_cast<unsigned char *>(p));
}

// Bytes of the only parameter of an entry; 0 where there is no such entry.
size_t chaski_emulated_args_bytes(const char *name) {
  for (const Entry *entry = entries; entry; entry = entry->next)
    if (std::strcmp(entry->name, name) == 0) return entry->args_bytes;
  return 0;
}

// Runs a launch. `seed` 0: warps and lanes in their order. 0, or 1 and a message.
int chaski_emulated_launch(const char *name, const void *args, const unsigned grid[3], unsigned threads, unsigned shared,
                           unsigned long long seed, char *message, size_t message_bytes) {
  static std::once_flag once;
  std::call_once(once, take_signals);
  if (!run_of_thread) {
    run_of_thread = std::make_unique<Run>();
    for (size_t i = 0; i < MAX_THREADS; i++) mprotect(run_of_thread->stacks.start + i * (STACK + PAGE), PAGE, PROT_NONE);
  }
  const Entry *entry = entries;
  while (entry && std::strcmp(entry->name, name) != 0) entry = entry->next;
  if (!entry) return std::snprintf(message, message_bytes, "no kernel `%s`", name), 1;
  if (threads == 0 || threads % 32 != 0 || threads > entry->max_threads || shared > MAX_SHARED || grid[0] == 0 || grid[1] == 0 ||
      grid[2] == 0 || grid[1] > 65535 || grid[2] > 65535)
    return std::snprintf(message, message_bytes, "a launch of (%u, %u, %u) blocks of %u threads, %u bytes of shared memory", grid[0],
                         grid[1], grid[2], threads, shared),
           1;
  run = run_of_thread.get();
  run->entry = entry;
  run->args = args;
  run->threads = threads;
  run->shared_bytes = shared;
  run->random = seed;
  run->ordered = seed == 0;
  run->failed = false;
  run->current = nullptr;
  stack_t mine{}, before{};
  mine.ss_sp = run->alt.start;
  mine.ss_size = run->alt.bytes;
  sigaltstack(&mine, &before);
  const uint3 dims = {grid[0], grid[1], grid[2]};
  for (unsigned z = 0; z < dims.z && !run->failed; z++)
    for (unsigned y = 0; y < dims.y && !run->failed; y++)
      for (unsigned x = 0; x < dims.x && !run->failed; x++) {
        begin_block({x, y, z}, dims);
        run_block();
      }
  const bool failed = run->failed;
  if (failed) std::snprintf(message, message_bytes, "%s", run->message);
  run = nullptr;
  sigaltstack(&before, nullptr);
  if (failed) return 1;
  if (const unsigned char *at = overrun())
    return std::snprintf(message, message_bytes, "bytes beside the allocation at %p were written", static_cast<const void *>(at)), 1;
  return 0;
}
}
