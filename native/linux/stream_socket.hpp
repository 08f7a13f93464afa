// Byte streams over Unix and virtio sockets (AF_UNIX, AF_VSOCK) on a libuv loop. Plain C++: the Node-API glue is
// native/addon/stream.cc.
//
// Nothing is buffered here: what comes is read straight into the memory that the delegate names, and what the socket does
// not take stays with the delegate.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "polled.hpp"

namespace vmring {

struct StreamAddress {
  bool vsock = false;
  std::string path{};
  uint32_t cid = 0;
  uint32_t port = 0;
};

// Who is at the other end, as the kernel says: SO_PEERCRED of a Unix socket, the address of a virtio socket.
struct StreamPeer {
  int64_t uid = -1;
  int64_t gid = -1;
  int64_t pid = -1;
  uint32_t cid = 0;
  uint32_t port = 0;
};

struct StreamOptions {
  // milliseconds for connect; 0: none (Unix), the kernel's own two seconds (virtio)
  uint32_t limit = 0;
  // bytes of the kernel's buffers; 0: as they are
  uint64_t buffer = 0;
};

class StreamSocket final : public Polled {
 public:
  struct Target {
    uint8_t* data = nullptr;
    size_t length = 0;
  };
  class Delegate {
   public:
    virtual void on_connect() = 0;
    // Where the next bytes go. Length 0 pauses reading.
    virtual Target read_target() = 0;
    virtual void on_read(size_t length) = 0;
    virtual void on_end() = 0;
    // Fills in what is to be written next and returns the number of parts; −1: that memory is not there any more.
    virtual int gather(iovec* parts, int most) = 0;
    // The first `length` bytes of what gather gives are out.
    virtual void on_sent(size_t length) = 0;
    virtual void on_drain() = 0;
    virtual void on_finish() = 0;
    // The last call. The socket has been closed already; null means that both directions ended.
    virtual void on_close(const OsError* error) = 0;

   protected:
    ~Delegate() = default;
  };

  // Takes over a connected descriptor, in any case. Null and `error` when libuv refuses it.
  static StreamSocket* adopt(uv_loop_t* loop, LoopUsers* users, int fd, Delegate* delegate, OsError* error);
  // Never null: every failure, the first one too, comes as on_close from the loop.
  static StreamSocket* connect(uv_loop_t* loop, LoopUsers* users, const StreamAddress& address,
                               const StreamOptions& options, Delegate* delegate);

  // Starts or pauses reading.
  void read(bool wanted);
  // Sends at once what the socket takes; the number of bytes. Call want_writable() with the rest in gather's hands.
  size_t send(iovec* parts, size_t count);
  void want_writable();
  // Half-close, behind what gather still has.
  void end();
  void close();
  // Closes so that the other side sees a reset where the family knows one.
  void reset();

  bool vsock() const { return address_.vsock; }
  const StreamPeer& peer() const { return peer_; }
  // path, or own cid and port
  const StreamAddress& local() const { return local_; }

 private:
  StreamSocket(uv_loop_t* loop, LoopUsers* users, int fd, Delegate* delegate);

  void on_poll(int status, int events) override;
  void on_timer() override;
  void start_connect(const StreamOptions& options);
  void try_connect();
  void connect_done(int code);
  void learn_names();
  void read_some();
  void flush();
  void shut_writing();
  void update();
  void fail_later(int code, const char* syscall);
  void finish(const OsError* error);

  Delegate* delegate_;
  StreamAddress address_{};
  StreamAddress local_{};
  StreamPeer peer_{};
  OsError failure_{};
  uint64_t deadline_ = 0;
  bool connecting_ = false;
  bool retrying_ = false;      // the backlog of a Unix listener is full
  bool tell_connect_ = false;  // on_connect is due
  bool tell_finish_ = false;   // on_finish is due
  bool reading_ = false;
  bool writing_ = false;  // gather has something
  bool ending_ = false;   // end() was called
  bool finished_ = false; // and has been carried out
  bool ended_ = false;    // the other side's direction is over
};

// Binds (virtio) or binds and listens through open_unix_listener (Unix, with that file mode). −1 and `error` on failure.
// `backlog` ≤ 0: as many as the system allows.
int open_stream_listener(const StreamAddress& address, unsigned mode, int backlog, uint64_t buffer, OsError* error);
// What a listening or connected descriptor is bound to.
StreamAddress stream_address_of(int fd);
// Own CID, or a negative errno; ENODEV when no transport for virtio sockets is there.
int64_t vsock_local_cid();

}  // namespace vmring
