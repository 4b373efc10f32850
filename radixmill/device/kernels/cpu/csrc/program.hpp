// A forward pass as a list of calls, recorded once and run in one go: between two ops there is no interpreter.
#pragma once
#include <functional>
#include <vector>

#include "engine.hpp"

namespace radixmill {

// What changes from step to step.
struct Step {
  int tokens = 0, wanted = 0;
  const int64_t* ids = nullptr;          // [tokens]
  const int32_t* positions = nullptr;    // [tokens]
  const int32_t* wanted_rows = nullptr;  // [wanted]
  std::vector<Ragged> ragged;            // per KV group
};

// Values are numbered registers: rows of floats, one per token or one per wanted token. Memory is shared between those
// that do not live at the same time.
class Program {
 public:
  enum class Rows { tokens, wanted };
  using Register = int;

  explicit Program(Engine& engine) : engine_(engine) {}

  // Recording. Registers that a call reads must have been given by an earlier one.
  Register embed(const Matrix* table, float scale);
  Register product(Source source, Register x, Stack w, const float* bias);
  void product_into(Source source, Register x, Stack w, const float* bias, Register y);  // y += the product
  Register rms_norm(Register x, const float* weight, int k, float eps);
  Register layer_norm(Register x, const float* weight, int groups, int k, float eps);
  void add(Register x, Register y);  // x += y
  void dimmed(Register x, Register gate);  // in place
  void rope(Register x, int heads, const float* cos, const float* sin, int limit, int half);  // in place
  Register scale(Register x, float by);
  Register softcap(Register x, float cap);
  Register gated(Register x, Activation activation);
  Register route(Register logits, const float* bias, Routing routing);
  Register experts(Register x, Register routes, const Mixture* mixture);
  Register heads(Register x, const Stacks* w);
  Register qkv(std::vector<Register> parts, const Pages* kv, QkvJob job, int group);
  Register latents(Register q, Register latent, const Pages* kv, LatentJob job, int group);
  Register attention(Register q, const Pages* kv, int heads, int group, Scores scores);
  Register gather(Register x);
  void finish(Register out);

  int width() const { return value(out_).width; }
  int groups() const { return groups_; }

  // out [wanted, width]. Throws what the engine's ops throw, and std::logic_error before finish().
  void run(const Step& step, float* out);

 private:
  struct Value {
    Rows rows;
    int width;
    int born, dies;  // calls that write it first and read it last
    int home = -1;
  };
  struct Home {
    Rows rows;
    int width, free_after;
  };
  using Call = std::function<void(const Step&, const std::vector<float*>&)>;

  const Value& value(Register r) const { return values_.at(size_t(r)); }
  Register make(Rows rows, int width);
  void use(Register r) { values_.at(size_t(r)).dies = int(calls_.size()); }
  void record(Rows rows, Call call);
  void check(const Source& source, Register x, const Stack& w) const;

  Engine& engine_;
  std::vector<Value> values_;
  std::vector<std::pair<Rows, Call>> calls_;
  std::vector<Home> homes_;
  std::vector<float*> at_;  // per register, in this step
  Buffer<uint8_t> memory_;
  size_t bytes_ = 0;
  int groups_ = 0;
  Register out_ = -1;
};

}  // namespace radixmill
