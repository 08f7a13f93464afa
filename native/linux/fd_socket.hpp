// Unix stream sockets that carry 8-byte little-endian messages with at most one file descriptor each, on a libuv loop.
// Plain C++: the Node-API glue is native/addon/os.cc.
//
// Objects live on the heap and delete themselves: close() ends all calls to the delegate at once and may be called from
// inside any of them; the memory goes when libuv has let go of the handles.
#pragma once

#include <sys/types.h>
#include <uv.h>

#include <cstdint>
#include <string>

namespace vmring {

// An operating-system error in libuv's shape: `code` is a negative errno.
struct OsError {
  int code = 0;
  const char* syscall = "";
  std::string address{};
  // in place of the system's text, when set
  const char* text = nullptr;
  // of a virtio socket, whose address is a CID
  int64_t port = -1;
};

// Counts the objects that still hold libuv handles, so that an environment can wait for the last of them.
struct LoopUsers {
  int live = 0;
  void (*drained)(void*) = nullptr;
  void* data = nullptr;
  void gone() {
    if (--live == 0 && drained != nullptr) drained(data);
  }
};

class FdSocket {
 public:
  class Delegate {
   public:
    // `fd` is −1 or belongs to the callee.
    virtual void on_message(int64_t value, int fd) = 0;
    virtual void on_writable() = 0;
    // The last call. The socket has been closed already; null means an orderly end.
    virtual void on_close(const OsError* error) = 0;

   protected:
    ~Delegate() = default;
  };

  enum class Role : uint8_t {
    server,  // sends only: a client that says anything at all is closed with EPROTO
    client,  // receives messages
  };

  // Takes over a connected descriptor, in any case. Null and `error` when libuv refuses it.
  static FdSocket* adopt(uv_loop_t* loop, LoopUsers* users, int fd, Role role, Delegate* delegate, OsError* error);
  // A full backlog is tried again until close(); any other refusal comes back at once.
  static FdSocket* connect(uv_loop_t* loop, LoopUsers* users, const char* path, Delegate* delegate, OsError* error);

  // True: accepted. False: the socket is full (ask with want_writable) or broken (on_close follows). `fd` is not taken over.
  bool send(int64_t value, int fd);
  // One on_writable, when sending makes sense again.
  void want_writable();
  uid_t uid() const { return uid_; }
  pid_t pid() const { return pid_; }
  void ref(bool keep_loop_alive);
  void close();

 private:
  FdSocket(uv_loop_t* loop, LoopUsers* users, int fd, Role role, Delegate* delegate);
  ~FdSocket() = default;
  FdSocket(const FdSocket&) = delete;
  FdSocket& operator=(const FdSocket&) = delete;

  int start_poll();
  void update_poll();
  bool flush_rest();
  bool read_messages();
  bool read_once(bool* more);
  void fail_later(int code, const char* syscall);
  void finish(const OsError* error);
  void try_connect();
  void on_timer();
  static void poll_event(uv_poll_t* handle, int status, int events);
  static void timer_event(uv_timer_t* handle);
  static void handle_closed(uv_handle_t* handle);

  uv_loop_t* loop_;
  LoopUsers* users_;
  Delegate* delegate_;
  uv_poll_t poll_{};
  // retries of connect, of a send that the kernel refused for want of resources, and errors found inside send()
  uv_timer_t timer_{};
  int fd_;
  int handles_ = 0;
  Role role_;
  bool polling_ = false;
  bool closing_ = false;
  bool connecting_ = false;
  bool referenced_ = true;
  bool want_writable_ = false;
  bool starved_ = false;
  std::string path_;
  OsError failure_;
  uid_t uid_ = static_cast<uid_t>(-1);
  pid_t pid_ = -1;
  // an incoming message of which some bytes have come
  uint8_t in_[8] = {};
  int in_count_ = 0;
  int in_fd_ = -1;
  // what is left of an outgoing message that the kernel took in part (its descriptor has gone out with the first byte)
  uint8_t out_[8] = {};
  int out_count_ = 0;
};

// A listening Unix socket. Connections arrive as descriptors that belong to the delegate.
class FdListener {
 public:
  class Delegate {
   public:
    virtual void on_connection(int fd) = 0;
    // A connection was turned away (no descriptors or memory left); listening goes on.
    virtual void on_refused(const OsError& error) = 0;

   protected:
    ~Delegate() = default;
  };

  // Takes over a listening descriptor, in any case. `speaks_first`: the server does, so that a client which has ended
  // before it was accepted only looked whether anybody is here; it is not reported.
  static FdListener* adopt(uv_loop_t* loop, LoopUsers* users, int fd, bool speaks_first, Delegate* delegate, OsError* error);
  void ref(bool keep_loop_alive);
  void close();

 private:
  FdListener(uv_loop_t* loop, LoopUsers* users, int fd, bool speaks_first, Delegate* delegate);
  ~FdListener() = default;
  FdListener(const FdListener&) = delete;
  FdListener& operator=(const FdListener&) = delete;

  void accept_some();
  void turn_away(int code);
  static void poll_event(uv_poll_t* handle, int status, int events);
  static void timer_event(uv_timer_t* handle);
  static void handle_closed(uv_handle_t* handle);

  LoopUsers* users_;
  Delegate* delegate_;
  uv_poll_t poll_{};
  uv_timer_t timer_{};
  int fd_;
  // given up for a moment when no descriptor is left, so that a connection can be accepted in order to be closed
  int reserve_;
  int handles_ = 0;
  bool speaks_first_;
  bool closing_ = false;
};

// Binds and listens. A socket file that nobody answers at is replaced; a live one is EADDRINUSE. The file appears with no
// more than `mode`; `gid` −1 keeps the group. Returns the descriptor, or −1 and `error`.
int open_unix_listener(const char* path, mode_t mode, gid_t gid, OsError* error);

}  // namespace vmring
