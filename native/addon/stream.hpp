// The JavaScript objects over native/linux/stream_socket.hpp.
#pragma once

#include <sys/stat.h>
#include <unistd.h>

#include <deque>
#include <string>
#include <vector>

#include "addon/os_wrapper.hpp"
#include "linux/stream_socket.hpp"

namespace vmring::os {

inline napi_value numbers_object(napi_env env, std::initializer_list<std::pair<const char*, double>> fields) {
  napi_value result = nullptr;
  napi_create_object(env, &result);
  for (const auto& [name, value] : fields) napi_set_named_property(env, result, name, number(env, value));
  return result;
}

inline napi_value local_value(napi_env env, const StreamAddress& address) {
  if (address.vsock) return numbers_object(env, {{"cid", address.cid}, {"port", address.port}});
  napi_value result = numbers_object(env, {});
  napi_set_named_property(env, result, "path", string(env, address.path));
  return result;
}

// The bytes of a Uint8Array as they are now: none when its memory has been transferred away.
inline bool bytes_of(napi_env env, napi_value value, StreamSocket::Target* bytes) {
  napi_typedarray_type type = napi_int8_array;
  size_t length = 0;
  void* data = nullptr;
  if (napi_get_typedarray_info(env, value, &type, &length, &data, nullptr, nullptr) != napi_ok) return false;
  if (type != napi_uint8_array) return false;
  *bytes = {static_cast<uint8_t*>(data), data == nullptr ? 0 : length};
  return true;
}

class JsStream final : public Wrapper, public StreamSocket::Delegate {
 public:
  using Wrapper::Wrapper;

  // Takes over `fd`. Null and an OsError when libuv refuses it.
  static JsStream* accept(OsState* state, int fd, OsError* error) {
    auto* self = new JsStream(state);
    self->socket_ = StreamSocket::adopt(state->loop, &state->users, fd, self, error);
    if (self->socket_ == nullptr) {
      delete self;
      return nullptr;
    }
    self->learn();
    if (self->attach(state->stream_class, nullptr) != nullptr) return self;
    self->socket_->close();
    delete self;
    *error = {.code = UV_ENOMEM, .syscall = "accept"};
    return nullptr;
  }

  static napi_value connect(OsState* state, napi_value handlers, const StreamAddress& address, const StreamOptions& options) {
    auto* self = new JsStream(state);
    self->socket_ = StreamSocket::connect(state->loop, &state->users, address, options, self);
    self->learn();
    napi_value object = self->attach(state->stream_class, handlers);
    if (object != nullptr) return object;
    self->socket_->close();
    delete self;
    return nullptr;
  }

  void start(napi_value handlers) {
    if (is_open()) set_handlers(handlers);
  }

  void read_into(napi_value target) {
    if (!is_open()) return;
    set_target(target);
    socket_->read(true);
  }

  void pause() {
    if (!is_open()) return;
    set_target(nullptr);
    socket_->read(false);
  }

  // Bytes that stay queued. `parts` are the bytes of `chunks`.
  size_t write(const std::vector<napi_value>& chunks, std::vector<iovec>& parts) {
    if (!is_open() || ending_) return 0;
    size_t taken = 0;
    if (queue_.empty()) {
      taken = socket_->send(parts.data(), parts.size());
      written_ += taken;
    }
    for (size_t i = 0; i < chunks.size(); ++i) {
      const size_t length = parts[i].iov_len;
      if (taken >= length) {
        taken -= length;
        continue;
      }
      Chunk chunk{.offset = taken, .length = length - taken};
      taken = 0;
      napi_create_reference(state_->env, chunks[i], 1, &chunk.bytes);
      queue_.push_back(chunk);
      queued_ += chunk.length;
    }
    if (!queue_.empty()) socket_->want_writable();
    return queued_;
  }

  void end() {
    if (!is_open()) return;
    ending_ = true;
    socket_->end();
  }

  void reset() {
    if (is_open()) socket_->reset();
    close();
  }

  void ref_native(bool keep) override { socket_->ref(keep); }
  size_t queued() const { return queued_; }
  uint64_t bytes_read() const { return read_; }
  uint64_t bytes_written() const { return written_; }
  bool vsock() const { return local_.vsock; }
  const StreamAddress& local() const { return local_; }
  const StreamPeer& peer() const { return peer_; }

 private:
  struct Chunk {
    napi_ref bytes = nullptr;
    size_t offset = 0;
    size_t length = 0;
  };

  void learn() {
    local_ = socket_->local();
    local_.vsock = socket_->vsock();
    peer_ = socket_->peer();
  }

  void set_target(napi_value target) {
    if (target_ != nullptr) napi_delete_reference(state_->env, target_);
    target_ = nullptr;
    if (target != nullptr) napi_create_reference(state_->env, target, 1, &target_);
  }

  StreamSocket::Target read_target() override {
    StreamSocket::Target target;
    napi_handle_scope scope;
    if (target_ == nullptr || napi_open_handle_scope(state_->env, &scope) != napi_ok) return target;
    napi_value value = nullptr;
    napi_get_reference_value(state_->env, target_, &value);
    if (value != nullptr) bytes_of(state_->env, value, &target);
    napi_close_handle_scope(state_->env, scope);
    return target;
  }

  int gather(iovec* parts, int most) override {
    napi_handle_scope scope;
    if (queue_.empty()) return 0;
    if (napi_open_handle_scope(state_->env, &scope) != napi_ok) return -1;
    int count = 0;
    for (const Chunk& chunk : queue_) {
      if (count == most) break;
      napi_value value = nullptr;
      StreamSocket::Target bytes;
      napi_get_reference_value(state_->env, chunk.bytes, &value);
      if (value == nullptr || !bytes_of(state_->env, value, &bytes) || bytes.length < chunk.offset + chunk.length) {
        count = -1;
        break;
      }
      parts[count++] = {.iov_base = bytes.data + chunk.offset, .iov_len = chunk.length};
    }
    napi_close_handle_scope(state_->env, scope);
    return count;
  }

  void on_sent(size_t length) override {
    written_ += length;
    queued_ -= length;
    while (length > 0) {
      Chunk& first = queue_.front();
      if (first.length > length) {
        first.offset += length;
        first.length -= length;
        return;
      }
      length -= first.length;
      napi_delete_reference(state_->env, first.bytes);
      queue_.pop_front();
    }
  }

  static void nothing(napi_env, napi_value*) {}

  void on_connect() override {
    learn();
    call<0>("onConnect", nothing);
  }
  void on_read(size_t length) override {
    read_ += length;
    call<1>("onRead", [length](napi_env env, napi_value* arguments) { arguments[0] = number(env, static_cast<double>(length)); });
  }
  void on_end() override { call<0>("onEnd", nothing); }
  void on_drain() override { call<0>("onDrain", nothing); }
  void on_finish() override { call<0>("onFinish", nothing); }
  void on_close(const OsError* error) override {
    socket_ = nullptr;
    call_closed<1>([error](napi_env env, napi_value, napi_value* arguments) { arguments[0] = error_or_null(env, error); });
  }

  void close_native() override {
    if (socket_ != nullptr) socket_->close();
    socket_ = nullptr;
    set_target(nullptr);
    for (const Chunk& chunk : queue_) napi_delete_reference(state_->env, chunk.bytes);
    queue_.clear();
    queued_ = 0;
  }

  StreamSocket* socket_ = nullptr;
  napi_ref target_ = nullptr;
  std::deque<Chunk> queue_;
  size_t queued_ = 0;
  uint64_t read_ = 0;
  uint64_t written_ = 0;
  bool ending_ = false;
  StreamAddress local_{};
  StreamPeer peer_{};
};

class JsStreamListener final : public Wrapper, public FdListener::Delegate {
 public:
  using Wrapper::Wrapper;

  // Takes over `fd`. `own_path`: the file that was made for it, which goes with it.
  static napi_value create(OsState* state, napi_value handlers, int fd, const std::string& own_path, OsError* error) {
    auto* self = new JsStreamListener(state);
    self->local_ = stream_address_of(fd);
    if (!own_path.empty() && ::lstat(own_path.c_str(), &self->file_) == 0) self->own_path_ = own_path;
    self->listener_ = FdListener::adopt(state->loop, &state->users, fd, false, self, error);
    napi_value object = self->listener_ == nullptr ? nullptr : self->attach(state->stream_listener_class, handlers);
    if (object != nullptr) return object;
    if (self->listener_ != nullptr) *error = {.code = UV_ENOMEM, .syscall = "listen"};
    self->close_native();
    delete self;
    return nullptr;
  }

  void ref_native(bool keep) override { listener_->ref(keep); }
  const StreamAddress& local() const { return local_; }

 private:
  void on_connection(int fd) override {
    napi_env env = state_->env;
    napi_handle_scope scope;
    if (state_->ending || napi_open_handle_scope(env, &scope) != napi_ok) {
      ::close(fd);
      return;
    }
    OsError error;
    JsStream* stream = JsStream::accept(state_, fd, &error);
    if (stream == nullptr) {
      on_refused(error);
    } else {
      napi_value object = stream->object();
      call<1>("onConnection", [object](napi_env, napi_value* arguments) { arguments[0] = object; });
    }
    napi_close_handle_scope(env, scope);
  }
  void on_refused(const OsError& error) override {
    call<1>("onRefused", [&error](napi_env e, napi_value* arguments) { arguments[0] = os_error(e, error); });
  }
  void close_native() override {
    struct stat there{};
    if (!own_path_.empty() && ::lstat(own_path_.c_str(), &there) == 0 && there.st_dev == file_.st_dev &&
        there.st_ino == file_.st_ino) {
      ::unlink(own_path_.c_str());
    }
    if (listener_ != nullptr) listener_->close();
    listener_ = nullptr;
  }

  FdListener* listener_ = nullptr;
  StreamAddress local_{};
  std::string own_path_;
  struct stat file_{};
};

}  // namespace vmring::os
