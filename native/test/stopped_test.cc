// A peer that is stopped (SIGSTOP, a paused guest) at any labelled point of the protocol never blocks another.
//
// One process per peer over one shared mapping. B runs core with a policy that stops its own process at one Site, before or
// behind the access; A then goes on with C, and with what it can do towards B, in bounded work; after SIGCONT everything that
// was sent either way arrives, in order. Every Site that B reaches is tried, at its first and at a later visit.
#include "life.hpp"

using namespace life;

namespace {

// One run: B stops at that place. True when B came there at all.
bool run(Site site, uint32_t visit, bool behind, uint32_t* visits) {
  World world;
  FatalAtomics::site = site;
  FatalAtomics::visit = visit;
  FatalAtomics::behind = behind;
  FatalAtomics::signal = SIGSTOP;
  const pid_t child = start_b(world);
  Side<StdAtomics> with_b(world.region, 0, 1, world.memory[0]);
  bool stopped = false;
  bool ended = false;
  int status = 0;
  const auto look = [&] {
    int now = 0;
    if (ended || waitpid(child, &now, WNOHANG | WUNTRACED) != child) return;
    if (WIFSTOPPED(now)) {
      stopped = true;
    } else {
      ended = true;
      status = now;
    }
  };
  while (!stopped && !ended) {
    with_b.turn();
    look();
  }
  if (stopped) {
    // B stands still. A whole conversation with C, and every turn towards B returns.
    Side<StdAtomics> with_c(world.region, 0, 2, world.memory[0]);
    Side<StdAtomics> c(world.region, 2, 0, world.memory[2]);
    for (uint32_t i = 0; i < kRoundsAlone; ++i) {
      with_b.turn();
      with_c.turn();
      c.turn();
    }
    CHECK(with_c.all_sent() && with_c.all_received() && c.all_sent() && c.all_received());
    kill(child, SIGCONT);
    while (!ended) {
      with_b.turn();
      look();
    }
  }
  // What B sent last may still be here.
  for (uint32_t i = 0; i < kRoundsAlone && !(with_b.all_sent() && with_b.all_received()); ++i) with_b.turn();
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  CHECK(shared->done == 1 && with_b.all_sent() && with_b.all_received());
  if (visits) memcpy(visits, shared->visits, sizeof shared->visits);
  return stopped;
}

} // namespace

TEST(a_peer_stopped_at_any_labelled_point_blocks_nobody) {
  uint32_t visits[kSites] = {};
  REQUIRE(!run(Site::publish_record, 0, false, visits)); // counts only
  uint32_t places = 0;
  uint32_t sites = 0;
  for (uint32_t s = 0; s < kSites; ++s) {
    if (visits[s] == 0) continue;
    ++sites;
    for (const bool behind : {false, true}) {
      for (const uint32_t visit : {1u, visits[s] < 30 ? visits[s] : 30u}) {
        if (check::failures != 0) {
          printf("  at site %u\n", s);
          return;
        }
        // How often B comes by depends on the timing; the first visit always happens.
        const bool stopped = run(static_cast<Site>(s), visit, behind, nullptr);
        places += stopped ? 1 : 0;
        if (visit == 1) CHECK(stopped);
      }
    }
  }
  printf("  stopped at %u places of %u sites\n", places, sites);
  CHECK(sites == kSites); // a label that is never reached proves nothing
}
