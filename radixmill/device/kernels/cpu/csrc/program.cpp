#include "program.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

namespace radixmill {

Program::Register Program::make(Rows rows, int width) {
  values_.push_back({rows, width, int(calls_.size()), int(calls_.size())});
  return int(values_.size()) - 1;
}

void Program::record(Rows rows, Call call) { calls_.emplace_back(rows, std::move(call)); }

namespace {

void expect(bool fits, const char* what) {
  if (!fits) throw std::invalid_argument(std::string("program: ") + what + " of the wrong width, or of other rows");
}

int count(const Step& step, Program::Rows rows) { return rows == Program::Rows::tokens ? step.tokens : step.wanted; }

}  // namespace

Program::Register Program::embed(const Matrix* table, float scale) {
  const Register y = make(Rows::tokens, table->k());
  record(Rows::tokens, [=](const Step& step, const std::vector<float*>& at) {
    engine_.embed(*table, step.ids, step.tokens, scale, at[size_t(y)]);
  });
  return y;
}

void Program::check(const Source& source, Register x, const Stack& w) const {
  for (const Matrix* matrix : w.matrices) expect(matrix->k() == w.k(), "matrices");
  expect(value(x).width == w.k() * (source.kind == Source::gated ? 2 : 1), "what a product reads");
}

Program::Register Program::product(Source source, Register x, Stack w, const float* bias) {
  check(source, x, w);
  use(x);
  const Rows rows = value(x).rows;
  const Register y = make(rows, w.n());
  record(rows, [=](const Step& step, const std::vector<float*>& at) {
    engine_.product(source, w, at[size_t(x)], count(step, rows), bias, at[size_t(y)], false);
  });
  return y;
}

void Program::product_into(Source source, Register x, Stack w, const float* bias, Register y) {
  check(source, x, w);
  expect(value(y).width == w.n() && value(y).rows == value(x).rows, "what a product is added to");
  use(x), use(y);
  const Rows rows = value(x).rows;
  record(rows, [=](const Step& step, const std::vector<float*>& at) {
    engine_.product(source, w, at[size_t(x)], count(step, rows), bias, at[size_t(y)], true);
  });
}

Program::Register Program::rms_norm(Register x, const float* weight, int k, float eps) {
  expect(k > 0 && value(x).width % k == 0, "a norm");
  use(x);
  const Value in = value(x);
  const Register y = make(in.rows, in.width);
  record(in.rows, [=](const Step& step, const std::vector<float*>& at) {
    engine_.rms_norm(at[size_t(x)], weight, at[size_t(y)], int64_t(count(step, in.rows)) * (in.width / k), k, eps);
  });
  return y;
}

Program::Register Program::layer_norm(Register x, const float* weight, int groups, int k, float eps) {
  expect(value(x).width == groups * k, "a norm");
  use(x);
  const Value in = value(x);
  const Register y = make(in.rows, in.width);
  record(in.rows, [=](const Step& step, const std::vector<float*>& at) {
    engine_.layer_norm(at[size_t(x)], weight, at[size_t(y)], count(step, in.rows), groups, k, eps);
  });
  return y;
}

void Program::add(Register x, Register y) {
  expect(value(x).width == value(y).width && value(x).rows == value(y).rows, "a sum");
  use(x), use(y);
  const Value in = value(x);
  record(in.rows, [=](const Step& step, const std::vector<float*>& at) {
    engine_.add(at[size_t(x)], at[size_t(y)], int64_t(count(step, in.rows)) * in.width);
  });
}

Program::Register Program::scale(Register x, float by) {
  use(x);
  const Value in = value(x);
  const Register y = make(in.rows, in.width);
  record(in.rows, [=](const Step& step, const std::vector<float*>& at) {
    engine_.scale(at[size_t(x)], at[size_t(y)], int64_t(count(step, in.rows)) * in.width, by);
  });
  return y;
}

Program::Register Program::softcap(Register x, float cap) {
  use(x);
  const Value in = value(x);
  const Register y = make(in.rows, in.width);
  record(in.rows, [=](const Step& step, const std::vector<float*>& at) {
    engine_.softcap(at[size_t(x)], at[size_t(y)], int64_t(count(step, in.rows)) * in.width, cap);
  });
  return y;
}

Program::Register Program::gated(Register x, Activation activation) {
  use(x);
  const Value in = value(x);
  const Register y = make(in.rows, in.width / 2);
  record(in.rows, [=](const Step& step, const std::vector<float*>& at) {
    engine_.gated(at[size_t(x)], at[size_t(y)], count(step, in.rows), in.width / 2, activation);
  });
  return y;
}

void Program::rope(Register x, int heads, const float* cos, const float* sin, int limit, int half) {
  use(x);
  const Value in = value(x);
  expect(heads > 0 && in.rows == Rows::tokens && in.width % heads == 0, "heads of tokens");
  record(in.rows, [=](const Step& step, const std::vector<float*>& at) {
    engine_.rope(at[size_t(x)], step.tokens, heads, in.width / heads, step.positions, cos, sin, limit, half);
  });
}

void Program::dimmed(Register x, Register gate) {
  expect(value(gate).width == 1 && value(gate).rows == value(x).rows, "a gate");
  use(x), use(gate);
  const Value in = value(x);
  record(in.rows, [=](const Step& step, const std::vector<float*>& at) {
    engine_.dimmed(at[size_t(x)], at[size_t(gate)], count(step, in.rows), in.width);
  });
}

Program::Register Program::route(Register logits, const float* bias, Routing routing) {
  expect(value(logits).width == routing.experts, "logits");
  use(logits);
  const Rows rows = value(logits).rows;
  const Register y = make(rows, 2 * routing.top);
  record(rows, [=](const Step& step, const std::vector<float*>& at) {
    engine_.route(at[size_t(logits)], bias, at[size_t(y)], count(step, rows), routing);
  });
  return y;
}

Program::Register Program::experts(Register x, Register routes, const Mixture* mixture) {
  const int both = value(routes).width;
  expect(value(x).width == mixture->gate_up.k(), "what experts read");
  expect(both > 0 && both % 2 == 0 && value(routes).rows == value(x).rows, "routes");
  use(x), use(routes);
  const Rows rows = value(x).rows;
  const Register y = make(rows, mixture->down.n());
  record(rows, [=](const Step& step, const std::vector<float*>& at) {
    engine_.experts(*mixture, at[size_t(x)], at[size_t(routes)], count(step, rows), both / 2, at[size_t(y)]);
  });
  return y;
}

Program::Register Program::heads(Register x, const Stacks* w) {
  const int64_t heads = w->count(), k = w->k(), n = w->n();
  expect(value(x).width == heads * k, "what heads read");
  use(x);
  const Rows rows = value(x).rows;
  const Register y = make(rows, int(heads * n));
  record(rows, [=](const Step& step, const std::vector<float*>& at) {
    engine_.heads(*w, {at[size_t(x)], heads * k, k}, count(step, rows), {at[size_t(y)], heads * n, n});
  });
  return y;
}

Program::Register Program::qkv(std::vector<Register> parts, const Pages* kv, QkvJob job, int group) {
  expect(job.heads > 0, "query heads");
  for (const Register part : parts) expect(value(part).rows == Rows::tokens, "q, k, v"), use(part);
  groups_ = std::max(groups_, group + 1);
  const int queries = job.heads * kv->dim, keys = kv->groups * kv->dim, values = kv->groups * kv->value_dim;
  if (parts.size() == 3)
    expect(value(parts[0]).width == queries && value(parts[1]).width == keys && value(parts[2]).width == values, "q, k, v");
  else
    expect(parts.size() == 1 && value(parts[0]).width == queries + keys + values, "q, k, v");
  const Register y = make(Rows::tokens, queries);
  record(Rows::tokens, [=](const Step& step, const std::vector<float*>& at) {
    QkvJob now = job;
    now.positions = step.positions;
    now.q = at[size_t(parts[0])];
    now.k = parts.size() == 3 ? at[size_t(parts[1])] : now.q + queries;
    now.v = parts.size() == 3 ? at[size_t(parts[2])] : now.k + keys;
    engine_.qkv(*kv, now, step.ragged[size_t(group)], at[size_t(y)]);
  });
  return y;
}

Program::Register Program::latents(Register q, Register latent, const Pages* kv, LatentJob job, int group) {
  const int64_t heads = job.up->count();
  expect(value(q).rows == Rows::tokens && value(q).width == heads * job.query(), "queries");
  expect(value(latent).rows == Rows::tokens && value(latent).width == kv->dim, "latents");
  use(q), use(latent);
  groups_ = std::max(groups_, group + 1);
  const Register y = make(Rows::tokens, int(heads) * kv->dim);
  record(Rows::tokens, [=](const Step& step, const std::vector<float*>& at) {
    LatentJob now = job;
    now.positions = step.positions;
    now.q = at[size_t(q)], now.latent = at[size_t(latent)];
    engine_.latents(*kv, now, step.ragged[size_t(group)], at[size_t(y)]);
  });
  return y;
}

Program::Register Program::attention(Register q, const Pages* kv, int heads, int group, Scores scores) {
  expect(heads > 0 && value(q).rows == Rows::tokens && value(q).width == heads * kv->dim, "queries");
  use(q);
  groups_ = std::max(groups_, group + 1);
  const Register y = make(Rows::tokens, heads * kv->value_dim);
  record(Rows::tokens, [=](const Step& step, const std::vector<float*>& at) {
    engine_.attention(*kv, at[size_t(q)], at[size_t(y)], heads, step.ragged[size_t(group)], scores);
  });
  return y;
}

Program::Register Program::gather(Register x) {
  use(x);
  const size_t width = size_t(value(x).width);
  const Register y = make(Rows::wanted, int(width));
  record(Rows::wanted, [=](const Step& step, const std::vector<float*>& at) {
    for (int i = 0; i < step.wanted; i++)
      memcpy(at[size_t(y)] + size_t(i) * width, at[size_t(x)] + size_t(step.wanted_rows[i]) * width, width * 4);
  });
  return y;
}

// Give each register a home, in the order in which they are born: one whose last tenant is dead, else a new one.
void Program::finish(Register out) {
  if (value(out).rows != Rows::wanted) throw std::invalid_argument("a program ends with rows that were gathered");
  out_ = out;
  for (size_t r = 0; r < values_.size(); r++) {
    Value& mine = values_[r];
    if (int(r) == out_) continue;
    const auto fits = [&](const Home& home) { return home.rows == mine.rows && home.free_after < mine.born; };
    auto home = std::find_if(homes_.begin(), homes_.end(), fits);
    if (home == homes_.end()) home = homes_.insert(homes_.end(), {mine.rows, 0, 0});
    home->width = std::max(home->width, mine.width);
    home->free_after = mine.dies;
    mine.home = int(home - homes_.begin());
  }
}

void Program::run(const Step& step, float* out) {
  if (out_ < 0) throw std::logic_error("the program is not finished");
  size_t bytes = 0;
  std::vector<size_t> starts;
  for (const Home& home : homes_) {
    starts.push_back(bytes);
    bytes += (size_t(count(step, home.rows)) * size_t(home.width) * 4 + 63) & ~size_t(63);
  }
  if (bytes > bytes_) memory_ = allocate(bytes), bytes_ = bytes;
  at_.resize(values_.size());
  for (size_t r = 0; r < values_.size(); r++)
    at_[r] = int(r) == out_ ? out : (float*)(memory_.get() + starts[size_t(values_[r].home)]);
  for (const auto& [rows, call] : calls_) {
    if (count(step, rows)) call(step, at_);
    beat(engine_.pool().word());
  }
}

}  // namespace radixmill
