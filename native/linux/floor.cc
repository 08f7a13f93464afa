#include "linux/floor.hpp"

#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <vector>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "core/consumer.hpp"
#include "core/producer.hpp"
#include "linux/mapping.hpp"
#include "linux/watchdog.hpp"

namespace vmring::floor {
namespace {

using A = StdAtomics;

constexpr uint32_t kTag = 7;
constexpr uint32_t kTripsPerSample = 64;        // so that reading the clock does not count
constexpr uint32_t kSpinsPerYield = 4096;       // whoever should answer may wait for this processor
constexpr uint64_t kBytesPerSample = 4u << 20;

double median(std::vector<double>& values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

class SharedMemory {
 public:
  explicit SharedMemory(size_t size) : size_(size) {
    data_ = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (data_ == MAP_FAILED) throw SystemError(errno, "mmap");
  }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  ~SharedMemory() { munmap(data_, size_); }
  uint8_t* data() { return static_cast<uint8_t*>(data_); }

 private:
  void* data_;
  size_t size_;
};

// The other side, for as long as this object lives. It runs `body` and nothing of Node: no thread but this one is in the fork.
class Other {
 public:
  template <class Body>
  Other(int cpu, Body body) {
    const pid_t parent = getpid();
    pid_ = fork();
    if (pid_ < 0) throw SystemError(errno, "fork");
    if (pid_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() == parent) {
      if (cpu >= 0) place(cpu);
      body();
    }
    _exit(0);
  }
  Other(const Other&) = delete;
  Other& operator=(const Other&) = delete;
  ~Other() {
    kill(pid_, SIGKILL);
    while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }

  static bool place(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return sched_setaffinity(0, sizeof set, &set) == 0;
  }

 private:
  pid_t pid_ = 0;
};

struct Spinner {
  uint32_t turns = 0;
  void turn() {
    if (++turns % kSpinsPerYield == 0) sched_yield();
  }
};

struct Side {
  alignas(kLine) uint64_t line;
  alignas(kLine) RingHead head;
  alignas(kLine) ReaderBlock reader;
};

// Round trips until the time is over, `trip` one of them; the other side answers for ever.
template <class Trip>
double spin_trips(const Setup& setup, Trip trip) {
  std::vector<double> samples;
  const uint64_t end = steady_nanoseconds() + setup.nanoseconds;
  for (uint64_t begin = steady_nanoseconds(), over = 0; begin < end; begin = over) {
    for (uint32_t i = 0; i < kTripsPerSample; ++i) trip();
    over = steady_nanoseconds();
    samples.push_back(static_cast<double>(over - begin) / kTripsPerSample);
  }
  samples.erase(samples.begin(), samples.begin() + static_cast<ptrdiff_t>(samples.size() / 10)); // the other side started
  return median(samples);
}

double cache_line(const Setup& setup) {
  SharedMemory memory(2 * sizeof(Side));
  auto* sides = reinterpret_cast<Side*>(memory.data());
  const auto wait = [&](int side, uint64_t value) {
    Spinner spinner;
    const std::atomic_ref<uint64_t> line(sides[side].line);
    while (line.load(std::memory_order_acquire) != value) spinner.turn();
  };
  const auto say = [&](int side, uint64_t value) {
    std::atomic_ref<uint64_t>(sides[side].line).store(value, std::memory_order_release);
  };
  const Other other(setup.cpu[1], [&] {
    for (uint64_t i = 1;; ++i) {
      wait(0, i);
      say(1, i);
    }
  });
  uint64_t i = 0;
  return spin_trips(setup, [&] {
    say(0, ++i);
    wait(1, i);
  });
}

double ring(const Setup& setup) {
  SharedMemory memory(2 * (sizeof(Side) + setup.footprint));
  const auto run = [&](int me, auto body) {
    const auto side = [&](int which) {
      return reinterpret_cast<Side*>(memory.data() + static_cast<size_t>(which) * (sizeof(Side) + setup.footprint));
    };
    const auto data = [&](int which) { return reinterpret_cast<uint8_t*>(side(which)) + sizeof(Side); };
    Producer<A> out(&side(me)->head, data(me), setup.footprint, kTag, 0);
    Consumer<A> in(&side(me)->reader, 0);
    in.attach(&side(1 - me)->head, data(1 - me), setup.footprint, kTag);
    out.attach(&side(1 - me)->reader);
    std::vector<uint8_t> bytes(setup.size);
    const auto send = [&] {
      Spinner spinner;
      while (out.send(bytes.data(), setup.size, vmring::Kind::data, false) != Send::ok) spinner.turn();
      out.wake_needed();
    };
    const auto receive = [&] {
      Record record;
      Spinner spinner;
      while (in.poll(record) != Poll::record) spinner.turn();
      A::read_bytes(bytes.data(), record.payload, record.length);
      in.release(record.sequence);
      if (in.unpublished() > setup.footprint / 8) {
        in.publish_released();
        in.space_wake_needed();
      }
    };
    return body(send, receive);
  };
  // The fork has a Producer and Consumer of its own; a record is published by its header word, so either may be first.
  const Other other(setup.cpu[1], [&] {
    run(1, [](auto send, auto receive) {
      for (;;) {
        receive();
        send();
      }
    });
  });
  return run(0, [&](auto send, auto receive) {
    return spin_trips(setup, [&] {
      send();
      receive();
    });
  });
}

class Descriptor {
 public:
  Descriptor(int fd, const char* call) : fd_(fd) {
    if (fd < 0) throw SystemError(errno, call);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { ::close(fd_); }
  int get() const { return fd_; }

 private:
  int fd_;
};

// Both sides sleep in epoll, as an event loop does.
struct Bell {
  Descriptor event{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd"};
  void ring() const {
    const uint64_t one = 1;
    if (write(event.get(), &one, sizeof one) != sizeof one) _exit(1);
  }
};

struct Sleeper {
  explicit Sleeper(const Bell& bell) : fd(bell.event.get()) {
    epoll_event entry{};
    entry.events = EPOLLIN;
    if (epoll_ctl(poll.get(), EPOLL_CTL_ADD, fd, &entry) != 0) throw SystemError(errno, "epoll_ctl");
  }
  void wait() const {
    epoll_event entry{};
    uint64_t count = 0;
    while (epoll_wait(poll.get(), &entry, 1, -1) != 1 || read(fd, &count, sizeof count) != sizeof count) {
    }
  }
  Descriptor poll{epoll_create1(EPOLL_CLOEXEC), "epoll_create1"};
  int fd;
};

double event(const Setup& setup) {
  const Bell there, back;
  const Sleeper theirs(there), ours(back);
  const Other other(setup.cpu[1], [&] {
    for (;;) {
      theirs.wait();
      back.ring();
    }
  });
  const timespec gap = {static_cast<time_t>(setup.gap / 1'000'000'000), static_cast<long>(setup.gap % 1'000'000'000)};
  std::vector<double> samples;
  const uint64_t end = steady_nanoseconds() + setup.nanoseconds;
  for (uint64_t over = 0; over < end || samples.size() < 3;) {
    if (setup.gap != 0) nanosleep(&gap, nullptr);
    const uint64_t begin = steady_nanoseconds();
    there.ring();
    ours.wait();
    over = steady_nanoseconds();
    samples.push_back(static_cast<double>(over - begin));
  }
  return median(samples);
}

// Bytes per second of `put(where)`, which writes `size` bytes; the places take turns over the footprint, as records do.
template <class Put>
double bytes_per_second(const Setup& setup, Put put) {
  SharedMemory memory(setup.footprint);
  const uint32_t size = std::min(setup.size, setup.footprint);
  std::vector<double> samples;
  uint32_t at = 0;
  const uint64_t end = steady_nanoseconds() + setup.nanoseconds;
  for (uint64_t begin = steady_nanoseconds(), over = 0; begin < end; begin = over) {
    uint64_t written = 0;
    for (; written < kBytesPerSample; written += size) {
      put(memory.data() + at, size);
      asm volatile("" : : "r"(memory.data()) : "memory");
      at = at + 2 * size > setup.footprint ? 0 : at + size;
    }
    over = steady_nanoseconds();
    samples.push_back(static_cast<double>(written) * 1e9 / static_cast<double>(over - begin));
  }
  return median(samples);
}

} // namespace

double measure(Kind kind, const Setup& setup) {
  if (setup.cpu[0] >= 0) pin(setup.cpu[0]);
  switch (kind) {
    case Kind::cache_line: return cache_line(setup);
    case Kind::ring: return ring(setup);
    case Kind::eventfd: return event(setup);
    case Kind::memcpy: {
      const std::vector<uint8_t> source(setup.size, 1);
      return bytes_per_second(setup, [&](uint8_t* to, uint32_t size) { std::memcpy(to, source.data(), size); });
    }
    case Kind::fill: break;
  }
  int value = 0;
  return bytes_per_second(setup, [&](uint8_t* to, uint32_t size) { std::memset(to, ++value, size); });
}

void pin(int cpu) {
  if (!Other::place(cpu)) throw SystemError(errno, "sched_setaffinity");
}

uint32_t checksum(const uint8_t* bytes, size_t length, uint64_t offset) {
  // Each 32-bit word of the message counts times an odd number that is its own: words in another order give another sum.
  uint32_t sum = 0;
  const auto byte = [&] {
    sum += (uint32_t{*bytes} << offset % 4 * 8) * static_cast<uint32_t>(offset / 4 * 2 + 1);
    ++bytes, ++offset, --length;
  };
  while (length != 0 && offset % 4 != 0) byte();
  uint32_t weight = static_cast<uint32_t>(offset / 4 * 2 + 1);
  uint32_t sums[4] = {};
  const size_t blocks = length / 16;
  for (size_t i = 0; i < blocks; ++i, bytes += 16, weight += 8) {
    uint32_t words[4];
    std::memcpy(words, bytes, sizeof words);
    for (uint32_t k = 0; k < 4; ++k) sums[k] += words[k] * (weight + 2 * k);
  }
  sum += sums[0] + sums[1] + sums[2] + sums[3];
  offset += blocks * 16;
  length -= blocks * 16;
  while (length != 0) byte();
  return sum;
}

const char* hypervisor() {
#if defined(__x86_64__)
  static char name[13] = {};
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) != 0 && (c >> 31 & 1) != 0) {
    __cpuid(0x40000000, a, b, c, d);
    std::memcpy(name, &b, 4);
    std::memcpy(name + 4, &c, 4);
    std::memcpy(name + 8, &d, 4);
  }
  return name;
#else
  return "";
#endif
}

} // namespace vmring::floor
