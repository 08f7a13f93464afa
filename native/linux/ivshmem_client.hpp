// The client's half of the ivshmem-server protocol as a pure state machine: no socket, no descriptor, no Node.
//
// The caller reads 8-byte messages from wherever they come and feeds {value, came a descriptor with it?}; the answer says
// what the message means. The caller keeps owning the descriptor; it is wanted for `memory` and `vector` only.
//
// Wire order that a server must keep: 0 (the version) · own id · then in any order −1 with the memory, {id with fd} once
// per vector of each peer, {own id with fd} once per own vector; afterwards joins (id with fd) and leaves (id without).
#pragma once

#include <cstdint>
#include <unordered_map>

namespace vmring {

inline constexpr int64_t ivshmem_protocol_version = 0;
inline constexpr int64_t ivshmem_max_peer_id = 65535;
// The doorbell register has 8 bits for the vector.
inline constexpr uint16_t ivshmem_max_vectors = 256;

enum class IvshmemEvent : uint8_t {
  none,    // understood, nothing to do
  own_id,  // peer
  memory,  // the descriptor is the shared memory
  vector,  // peer, vector (own: one of ours); the descriptor is its eventfd
  left,    // peer
  fault,   // the server broke the protocol; nothing may be fed any more
};

enum class IvshmemFault : uint8_t {
  none,
  version,  // it speaks another version; `value` says which
  no_fd,    // a message that must bring a descriptor brought none
  garbage,  // a value or a descriptor that has no meaning at this point
};

struct IvshmemStep {
  IvshmemEvent event = IvshmemEvent::none;
  IvshmemFault fault = IvshmemFault::none;
  bool own = false;
  uint16_t peer = 0;
  uint16_t vector = 0;
  int64_t value = 0;
};

class IvshmemClient {
 public:
  // How far the handshake has come; what is missing is what an error message names.
  enum class Stage : uint8_t { version, id, memory, own_vector, ready, broken };

  Stage stage() const {
    if (broken_) return Stage::broken;
    if (!have_version_) return Stage::version;
    if (!have_id_) return Stage::id;
    if (!have_memory_) return Stage::memory;
    return own_vectors_ == 0 ? Stage::own_vector : Stage::ready;
  }
  // Everything that attaching needs is there: id, memory and at least one own vector.
  bool ready() const { return stage() == Stage::ready; }
  uint16_t own_id() const { return own_id_; }

  IvshmemStep feed(int64_t value, bool has_fd) {
    if (broken_) return fail(IvshmemFault::garbage, value);
    if (!have_version_) {
      if (value == ivshmem_protocol_version && !has_fd) {
        have_version_ = true;
        return {};
      }
      // A small positive number is a version of the future, anything else is no server of this protocol at all.
      const bool version = value > 0 && value <= ivshmem_max_peer_id && !has_fd;
      return fail(version ? IvshmemFault::version : IvshmemFault::garbage, value);
    }
    if (!have_id_) {
      if (value < 0 || value > ivshmem_max_peer_id || has_fd) return fail(IvshmemFault::garbage, value);
      have_id_ = true;
      own_id_ = static_cast<uint16_t>(value);
      return {.event = IvshmemEvent::own_id, .own = true, .peer = own_id_};
    }
    if (value == -1) {
      if (!has_fd) return fail(IvshmemFault::no_fd, value);
      if (have_memory_) return fail(IvshmemFault::garbage, value);
      have_memory_ = true;
      return {.event = IvshmemEvent::memory};
    }
    if (value < 0 || value > ivshmem_max_peer_id) return fail(IvshmemFault::garbage, value);
    const auto peer = static_cast<uint16_t>(value);
    if (peer == own_id_) {
      // A server never says that we ourselves have left: what is missing here is the descriptor.
      if (!has_fd) return fail(IvshmemFault::no_fd, value);
      if (own_vectors_ == ivshmem_max_vectors) return fail(IvshmemFault::garbage, value);
      return {.event = IvshmemEvent::vector, .own = true, .peer = peer, .vector = own_vectors_++};
    }
    if (!has_fd) {
      // Leaving without having come is harmless: a peer that has no vectors is never announced.
      if (peers_.erase(peer) == 0) return {};
      return {.event = IvshmemEvent::left, .peer = peer};
    }
    uint16_t& vectors = peers_[peer];
    if (vectors == ivshmem_max_vectors) return fail(IvshmemFault::garbage, value);
    return {.event = IvshmemEvent::vector, .peer = peer, .vector = vectors++};
  }

 private:
  IvshmemStep fail(IvshmemFault fault, int64_t value) {
    broken_ = true;
    return {.event = IvshmemEvent::fault, .fault = fault, .value = value};
  }

  bool have_version_ = false;
  bool have_id_ = false;
  bool have_memory_ = false;
  bool broken_ = false;
  uint16_t own_id_ = 0;
  uint16_t own_vectors_ = 0;
  // peers that are there now, with the number of vectors seen; at most 65,535 entries by the range check above
  std::unordered_map<uint16_t, uint16_t> peers_;
};

}  // namespace vmring
