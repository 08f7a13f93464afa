// The client's handshake against every kind of server, without a socket.
#include "linux/ivshmem_client.hpp"

#include <cstdint>
#include <cstdio>
#include <initializer_list>

using vmring::IvshmemClient;
using vmring::IvshmemEvent;
using vmring::IvshmemFault;
using vmring::IvshmemStep;

namespace {

int passed = 0;
int failed = 0;

void check(bool ok, const char* what, int line) {
  ok ? ++passed : ++failed;
  if (!ok) std::printf("%s:%d: %s\n", __FILE__, line, what);
}
#define CHECK(condition) check((condition), #condition, __LINE__)

constexpr int64_t with_fd = int64_t{1} << 62;

// Values; `with_fd` added where a descriptor comes along. The answer to the last one.
IvshmemStep feed(IvshmemClient& client, std::initializer_list<int64_t> values) {
  IvshmemStep step;
  for (const int64_t value : values) {
    const bool fd = value > with_fd / 2;
    step = client.feed(fd ? value - with_fd : value, fd);
  }
  return step;
}

void good_handshake() {
  IvshmemClient client;
  CHECK(client.stage() == IvshmemClient::Stage::version);
  CHECK(feed(client, {0}).event == IvshmemEvent::none);
  CHECK(client.stage() == IvshmemClient::Stage::id);
  IvshmemStep step = feed(client, {7});
  CHECK(step.event == IvshmemEvent::own_id && step.peer == 7 && client.own_id() == 7);
  CHECK(feed(client, {-1 + with_fd}).event == IvshmemEvent::memory);
  step = feed(client, {3 + with_fd});
  CHECK(step.event == IvshmemEvent::vector && step.peer == 3 && step.vector == 0 && !step.own);
  step = feed(client, {3 + with_fd});
  CHECK(step.event == IvshmemEvent::vector && step.peer == 3 && step.vector == 1);
  CHECK(!client.ready());
  step = feed(client, {7 + with_fd});
  CHECK(step.event == IvshmemEvent::vector && step.own && step.vector == 0 && client.ready());
  step = feed(client, {7 + with_fd});
  CHECK(step.own && step.vector == 1);
  step = feed(client, {3});
  CHECK(step.event == IvshmemEvent::left && step.peer == 3);
  // The same id again counts its vectors from 0.
  step = feed(client, {3 + with_fd});
  CHECK(step.event == IvshmemEvent::vector && step.vector == 0);
  CHECK(feed(client, {65535 + with_fd}).peer == 65535);
  // Somebody without vectors was never announced; that he leaves is nothing to die of.
  CHECK(feed(client, {12}).event == IvshmemEvent::none);
}

// QEMU takes anything until the memory has come; so do we.
void any_order() {
  IvshmemClient client;
  feed(client, {0, 7, 7 + with_fd});
  CHECK(client.stage() == IvshmemClient::Stage::memory);
  CHECK(feed(client, {3 + with_fd}).event == IvshmemEvent::vector);
  feed(client, {-1 + with_fd});
  CHECK(client.ready());
}

void fault(std::initializer_list<int64_t> values, IvshmemFault expected, int line) {
  IvshmemClient client;
  const IvshmemStep step = feed(client, values);
  check(step.event == IvshmemEvent::fault && step.fault == expected, "fault", line);
  check(client.stage() == IvshmemClient::Stage::broken && !client.ready(), "broken", line);
  check(feed(client, {0}).event == IvshmemEvent::fault, "stays broken", line);
}
#define FAULT(kind, ...) fault({__VA_ARGS__}, IvshmemFault::kind, __LINE__)

void bad_servers() {
  FAULT(version, 1);
  FAULT(version, 65535);
  FAULT(garbage, 65536);
  FAULT(garbage, -1);
  FAULT(garbage, INT64_MIN);
  FAULT(garbage, 0 + with_fd);
  FAULT(garbage, 1 + with_fd);
  FAULT(garbage, 0, -1);
  FAULT(garbage, 0, 65536);
  FAULT(garbage, 0, 7 + with_fd);
  FAULT(no_fd, 0, 7, -1);
  FAULT(no_fd, 0, 7, 7);
  FAULT(no_fd, 0, 7, -1 + with_fd, 7);
  FAULT(no_fd, 0, 7, -1 + with_fd, 7 + with_fd, 7);
  FAULT(garbage, 0, 7, -1 + with_fd, -1 + with_fd);
  FAULT(garbage, 0, 7, -2);
  FAULT(garbage, 0, 7, -2 + with_fd);
  FAULT(garbage, 0, 7, 70000 + with_fd);
}

void bounded() {
  IvshmemClient client;
  feed(client, {0, 7, -1 + with_fd});
  for (int i = 0; i < 256; ++i) CHECK(feed(client, {3 + with_fd}).vector == i);
  CHECK(feed(client, {3 + with_fd}).fault == IvshmemFault::garbage);
}

// Whatever comes, in whatever order: no fault of ours, and nothing but a fault once broken.
void noise() {
  uint64_t seed = 0x9e3779b97f4a7c15;
  const auto next = [&seed] {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
  };
  bool sane = true;
  for (int round = 0; round < 20000; ++round) {
    IvshmemClient client;
    feed(client, {0, static_cast<int64_t>(next() % 8)});
    for (int i = 0; i < 64; ++i) {
      const int64_t value = next() % 64 == 0 ? static_cast<int64_t>(next()) : static_cast<int64_t>(next() % 9) - 1;
      const bool was_broken = client.stage() == IvshmemClient::Stage::broken;
      const IvshmemStep step = client.feed(value, next() % 4 != 0);
      sane = sane && (!was_broken || step.event == IvshmemEvent::fault);
      sane = sane && (step.event != IvshmemEvent::vector || (step.peer == value && step.vector < 256));
    }
  }
  CHECK(sane);
}

}  // namespace

int main() {
  good_handshake();
  any_order();
  bad_servers();
  bounded();
  noise();
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}
