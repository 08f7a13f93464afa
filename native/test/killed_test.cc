// A peer that is killed (SIGKILL) at any labelled point of the protocol, or anywhere between, harms nobody: what the other has had
// from it is whole, in order and without a gap; its conversation with a third goes on; the daemon's word gives it all its
// memory back; and the next process in the section works, whatever the dead one has left half-written there.
#include "life.hpp"

using namespace life;

namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr uint32_t kRandomKills = 20; // a fork costs more there, and the labelled places come first
#else
constexpr uint32_t kRandomKills = 150;
#endif
constexpr uint32_t kCountings = 20;

// How long the last B was there.
uint32_t lived_microseconds = 0;

// Lives with B until it is dead, and with its successor to the end. True when it was killed before it had finished.
bool run(Site site, uint32_t visit, bool behind, uint32_t microseconds, uint32_t* visits) {
  World world;
  FatalAtomics::site = site;
  FatalAtomics::visit = visit;
  FatalAtomics::behind = behind;
  FatalAtomics::signal = SIGKILL;
  const auto* entry = reinterpret_cast<const EntryBlock*>(world.region.base + world.region.geometry.entry_at(1));
  Side<StdAtomics> with_b(world.region, 0, 1, world.memory[0]);
  const pid_t child = start_b(world);
  int status = 0;
  {
    Side<StdAtomics> with_c(world.region, 0, 2, world.memory[0]);
    Side<StdAtomics> c(world.region, 2, 0, world.memory[2]);
    const auto began = std::chrono::steady_clock::now();
    while (waitpid(child, &status, WNOHANG) != child) {
      with_b.turn();
      with_c.turn();
      c.turn();
      if (microseconds != 0 && std::chrono::steady_clock::now() - began >= std::chrono::microseconds(microseconds)) {
        kill(child, SIGKILL);
      }
    }
    const auto lived = std::chrono::steady_clock::now() - began;
    lived_microseconds = static_cast<uint32_t>(std::chrono::duration_cast<std::chrono::microseconds>(lived).count());
    // The heartbeat stands still; nothing is lost by looking.
    for (uint32_t i = 0; i < kRoundsAlone; ++i) {
      with_b.turn();
      with_c.turn();
      c.turn();
    }
    CHECK(with_c.all_sent() && with_c.all_received() && c.all_sent() && c.all_received());
    if (WIFEXITED(status)) CHECK(WEXITSTATUS(status) == 0 && with_b.all_received());
    // The daemon has seen the socket close.
    write_entry<StdAtomics>(const_cast<EntryBlock*>(entry), {EntryState::free, 0, 0, 1});
    Entry now;
    CHECK(read_entry<StdAtomics>(entry, now) && now.state == EntryState::free);
    with_b.free();
    with_c.free();
    CHECK(world.memory[0].free_bytes() == world.memory[0].size());
  }
  if (visits != nullptr) memcpy(visits, shared->visits, sizeof shared->visits);

  // Somebody else finishes what was begun, or leaves it alone: formatting, and B's place.
  const uint8_t uuid[16] = {3};
  Geometry plain;
  CHECK(format_together<StdAtomics>(world.plain(), kPlain, 2, uuid) == Header::ok);
  CHECK(read_geometry<StdAtomics>(world.plain(), kPlain, plain) == Header::ok && plain.sections == 2);
  FatalAtomics::visit = 0;
  shared->done = 0;
  world.next_b();
  with_b.meet();
  const pid_t successor = start_b(world);
  int ended = 0;
  while (waitpid(successor, &ended, WNOHANG) != successor) with_b.turn();
  for (uint32_t i = 0; i < kRoundsAlone && !(with_b.all_sent() && with_b.all_received()); ++i) with_b.turn();
  CHECK(WIFEXITED(ended) && WEXITSTATUS(ended) == 0 && shared->done == 1);
  CHECK(with_b.all_sent() && with_b.all_received());
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

} // namespace

TEST(a_peer_killed_at_any_labelled_point_harms_nobody) {
  uint32_t visits[kSites] = {};
  for (uint32_t left = kCountings; left > 0; --left) {
    uint32_t counted[kSites] = {};
    REQUIRE(!run(Site::publish_record, 0, false, 0, counted));
    bool all = true;
    for (uint32_t s = 0; s < kSites; ++s) {
      if (counted[s] > visits[s]) visits[s] = counted[s];
      all = all && visits[s] != 0;
    }
    if (all) break; // whether a full ring is met, for one, depends on who runs when
  }
  uint32_t kills = 0;
  for (uint32_t s = 0; s < kSites; ++s) {
    CHECK(visits[s] != 0); // a label that is never reached proves nothing
    for (const bool behind : {false, true}) {
      for (const uint32_t visit : {1u, visits[s] < 30 ? visits[s] : 30u}) {
        if (check::failures != 0) {
          printf("  at site %u, visit %u\n", s, visit);
          return;
        }
        // How often B comes by depends on the timing, sometimes whether it does at all.
        bool killed = false;
        for (uint32_t left = visit == 1 ? kCountings : 1; left > 0 && !killed; --left) {
          killed = run(static_cast<Site>(s), visit, behind, 0, nullptr);
        }
        kills += killed ? 1 : 0;
        if (visit == 1) CHECK(killed);
      }
    }
  }
  printf("  killed at %u places of %u sites\n", kills, kSites);
}

TEST(a_peer_killed_at_any_moment_harms_nobody) {
  rig::Random random{7};
  uint32_t kills = 0;
  for (uint32_t i = 0; i < kRandomKills && check::failures == 0; ++i) {
    // in the middle of what one that is left alone has just taken, now and then when it has hardly begun
    if (i % 10 == 0) run(Site::publish_record, 0, false, 0, nullptr);
    const uint32_t life = lived_microseconds;
    kills += run(Site::publish_record, 0, false, 1 + random.below(i % 3 == 0 ? life / 8 + 1 : life), nullptr) ? 1 : 0;
    lived_microseconds = life;
  }
  printf("  %u of %u were killed before they had finished\n", kills, kRandomKills);
  CHECK(kills > kRandomKills / 4);
}
