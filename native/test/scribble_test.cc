// Two peers as two processes with a channel between them at full traffic, and a third process that scribbles over one area of
// their region all the while. The region lies between pages that nobody may touch. Required: nobody dies, everybody goes on (a
// parent looks), no call takes long, no access outside the region; a channel goes on or says that it is broken, and the
// next one, in the same scribbled memory, works again.
//   VMRING_SCRIBBLE_MS=600000 VMRING_SCRIBBLE_SEED=7 scribble_test records     one area, ten minutes, what run 7 did
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include <chrono>

#include "check.hpp"
#include "lies.hpp"

using namespace vmring;
using hostile::Area;
using rig::Random;
using Clock = std::chrono::steady_clock;

namespace {

constexpr uint64_t kLongestCpu = 500'000'000; // ns that a few calls may take of a processor
constexpr auto kStandstill = std::chrono::seconds(10);
constexpr auto kRound = std::chrono::milliseconds(20); // then a channel is given up: what was lost may have stopped it

uint64_t setting(const char* name, uint64_t otherwise) {
  const char* text = getenv(name);
  return text ? strtoull(text, nullptr, 10) : otherwise;
}

// What the processes tell the parent; not in the region.
struct Progress {
  std::atomic<uint64_t> steps, pushed, popped, told, channels, faults, longest;
};
struct Board {
  std::atomic<bool> stop;
  std::atomic<uint64_t> lies;
  Progress of[2];
};

uint64_t cpu_nanoseconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

class Victim {
 public:
  Victim(const hostile::Memory& memory, uint32_t index, int socket, Board& board, uint64_t seed)
      : memory_(memory), index_(index), socket_(socket), board_(board), me_(board.of[index]), random_{seed} {}

  void run() {
    for (uint32_t round = 1; !board_.stop; ++round) {
      hostile::Side side(memory_, index_, 2 * round + index_);
      RingOffer theirs;
      if (!say(&side.offer, sizeof side.offer) || !hear(&theirs, sizeof theirs)) return;
      if (!side.end.attach(memory_.section(1 - index_), theirs)) hostile::violated(__FILE__, __LINE__, "no channel");
      ++me_.channels;
      if (!traffic(side)) {
        ++me_.faults;
        for (int i = 0; i < 50; ++i) hostile::step(side, random_); // a fault is final, and harmless
      }
      me_.pushed += side.pushed;
      me_.popped += side.popped;
      me_.told += side.told;
      char done = 0;
      if (!say(&done, 1) || (!heard_ && !hear(&done, 1))) return;
      heard_ = false;
    }
  }

 private:
  bool traffic(hostile::Side& side) {
    const auto until = Clock::now() + kRound;
    do {
      const uint64_t before = cpu_nanoseconds();
      for (int i = 0; i < 32; ++i) {
        if (!hostile::step(side, random_)) return false;
      }
      const uint64_t took = cpu_nanoseconds() - before;
      if (took > me_.longest) me_.longest = took;
      if (took > kLongestCpu) hostile::violated(__FILE__, __LINE__, "a call that took too long");
      me_.steps += 32;
      char byte = 0;
      heard_ = recv(socket_, &byte, 1, MSG_DONTWAIT) == 1;
    } while (!heard_ && !board_.stop && Clock::now() < until);
    return true;
  }
  bool say(const void* bytes, size_t length) {
    return send(socket_, bytes, length, MSG_NOSIGNAL) == static_cast<ssize_t>(length);
  }
  bool hear(void* bytes, size_t length) { return recv(socket_, bytes, length, 0) == static_cast<ssize_t>(length); }

  const hostile::Memory memory_;
  const uint32_t index_;
  const int socket_;
  Board& board_;
  Progress& me_;
  Random random_;
  bool heard_ = false;
};

// Where the rings of every round are: each begins with an allocator of its own.
hostile::Rings rings_of(const hostile::Memory& memory) {
  hostile::Rings rings;
  for (uint32_t i = 0; i < 2; ++i) {
    SectionAllocator fresh = memory.allocator();
    rings.of[i] = *End<StdAtomics>::allocate(memory.section(i), fresh, hostile::kCapacity, 1, i);
  }
  return rings;
}

template <class Work>
pid_t process(Work work) {
  const pid_t pid = fork();
  if (pid != 0) return pid;
  alarm(0);
  work();
  _exit(0);
}

void scribble(Board& board, const hostile::Memory& memory, Area area, uint64_t seed) {
  Random random{seed};
  hostile::Liar liar(memory, random);
  const hostile::Rings rings = rings_of(memory);
  while (!board.stop) {
    for (uint32_t k = random.below(16); k > 0; --k) {
      liar.lie(area, rings);
      ++board.lies;
    }
    for (uint32_t k = random.below(20000); k > 0; --k) asm volatile("" ::: "memory");
  }
}

// `area` null: nobody scribbles.
void run(const Area* area) {
  const uint64_t milliseconds = setting("VMRING_SCRIBBLE_MS", 400);
  const uint64_t seed = setting("VMRING_SCRIBBLE_SEED", static_cast<uint64_t>(Clock::now().time_since_epoch().count()));
  const char* name = area ? hostile::kAreas[static_cast<size_t>(*area)] : "nothing";
  printf("  %s: seed %llu\n", name, static_cast<unsigned long long>(seed));
  rig::Region region(kMinRegion, 4, true);
  const hostile::Memory memory{region.base(), region.geometry};
  void* page = mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(page != MAP_FAILED);
  Board& board = *new (page) Board{};
  int sockets[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) == 0);
  std::vector<pid_t> processes;
  for (uint32_t i = 0; i < 2; ++i) {
    processes.push_back(process([&] {
      close(sockets[1 - i]);
      Victim(memory, i, sockets[i], board, seed + i).run();
    }));
  }
  for (const int socket : sockets) close(socket);
  if (area) processes.push_back(process([&] { scribble(board, memory, *area, seed + 2); }));

  const auto until = Clock::now() + std::chrono::milliseconds(milliseconds);
  uint64_t seen[2] = {};
  Clock::time_point moved[2] = {Clock::now(), Clock::now()};
  std::vector<int> ended(processes.size(), -1);
  size_t left = processes.size();
  const auto reap = [&] {
    for (size_t i = 0; i < processes.size(); ++i) {
      if (ended[i] >= 0 || waitpid(processes[i], &ended[i], WNOHANG) == 0) continue;
      --left;
      if (ended[i] != 0) check::fail(__FILE__, __LINE__, std::string(i < 2 ? "a peer" : "the scribbler") + " died");
    }
  };
  // Also until the machine has let them come to something.
  const auto more = [&] {
    return Clock::now() < until || board.of[0].popped == 0 || board.of[1].popped == 0 || (area && board.lies == 0);
  };
  while (left == processes.size() && check::failures == 0 && more()) {
    poll(nullptr, 0, 20);
    reap();
    for (int i = 0; i < 2; ++i) {
      const uint64_t steps = board.of[i].steps + board.of[i].channels;
      if (steps != seen[i]) moved[i] = Clock::now();
      seen[i] = steps;
      if (Clock::now() - moved[i] > kStandstill) check::fail(__FILE__, __LINE__, "a peer stands still");
    }
  }
  board.stop = true;
  for (int i = 0; i < 1000 && left > 0; ++i) {
    poll(nullptr, 0, 10);
    reap();
  }
  if (left > 0) check::fail(__FILE__, __LINE__, "a process does not end");
  for (size_t i = 0; i < processes.size(); ++i) {
    if (ended[i] >= 0) continue;
    kill(processes[i], SIGKILL);
    waitpid(processes[i], &ended[i], 0);
  }
  const Progress &a = board.of[0], &b = board.of[1];
  const auto sum = [&](auto field) { return static_cast<unsigned long long>(a.*field + b.*field); };
  printf("  {\"area\":\"%s\",\"seed\":%llu,\"milliseconds\":%llu,\"lies\":%llu,\"calls\":%llu,\"pushed\":%llu,\"popped\":%llu,"
         "\"told\":%llu,\"channels\":%llu,\"faults\":%llu,\"longestMicroseconds\":%llu}\n",
         name, static_cast<unsigned long long>(seed), static_cast<unsigned long long>(milliseconds),
         static_cast<unsigned long long>(board.lies), sum(&Progress::steps), sum(&Progress::pushed), sum(&Progress::popped),
         sum(&Progress::told), sum(&Progress::channels), sum(&Progress::faults),
         static_cast<unsigned long long>(std::max(a.longest.load(), b.longest.load()) / 1000));
  CHECK(a.popped > 0 && b.popped > 0);
  if (area) CHECK(board.lies > 0);
  else CHECK_EQ(sum(&Progress::faults), 0u);
  munmap(page, sizeof(Board));
}

void run(Area area) { run(&area); }

} // namespace

#if defined(__SANITIZE_THREAD__)
// Three processes: TSan sees nothing of what they do to each other.
static const int not_run = printf("not run under TSan: scribbling processes\n");
TEST(without_a_scribbler_nothing_is_reported) { run(nullptr); }
#else
TEST(without_a_scribbler_nothing_is_reported) { run(nullptr); }
TEST(header) { run(Area::header); }
TEST(table) { run(Area::table); }
TEST(identity) { run(Area::identity); }
TEST(bells) { run(Area::bells); }
TEST(control) { run(Area::control); }
TEST(indices) { run(Area::indices); }
TEST(records) { run(Area::records); }
TEST(descriptors) { run(Area::descriptors); }
TEST(payloads) { run(Area::payloads); }
#endif
