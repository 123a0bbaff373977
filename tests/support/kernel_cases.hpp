#pragma once
// What every implementation of the fused kernels must give, on the host or on a GPU: each function against a plain one
// in double, in both storages, for shapes around the lengths of vectors and warps, aligned or not.

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "kernel_extremes.hpp"
#include "kernel_machine.hpp"

namespace idistill::test {

/// All cases of one shape and storage.
template <class T>
class KernelCases {
public:
    KernelCases(const KernelMachine& machine, std::int64_t rows, std::int64_t width, std::size_t shift)
        : machine_(machine), run_(machine.kernels), rows_(rows), width_(width), shift_(shift) {}

    std::vector<KernelFinding> operator()() {
        norms();
        activations();
        softmax();
        cross_entropy();
        rotation();
        bucket_sums();
        return findings_;
    }

private:
    static constexpr auto storage = storage_of<T>;
    static constexpr double epsilon = 1e-5;
    using Stored = There<T>;

    void note(const char* kernel, int error, const Numbers& found, const Numbers& expected) {
        findings_.push_back(
            {kernel,
             std::to_string(rows_) + " x " + std::to_string(width_) + " shifted " + std::to_string(shift_) +
                 (storage == model::Storage::bf16 ? " bf16" : " fp32"),
             error == 0 ? relative_difference(found, expected) : std::numeric_limits<double>::infinity()});
    }
    [[nodiscard]] Numbers random(std::int64_t count, double size = 1.0) { return normal_numbers(count, ++seed_, size); }
    [[nodiscard]] std::size_t at(std::int64_t row, std::int64_t column) const {
        return static_cast<std::size_t>(row * width_ + column);
    }
    /// Calls body(row), then for each of its columns.
    template <class OfRow, class OfColumn>
    void in_rows(OfRow&& of_row, OfColumn&& of_column) const {
        for (std::int64_t row = 0; row < rows_; ++row) {
            of_row(row);
            for (std::int64_t column = 0; column < width_; ++column) of_column(row, column);
        }
    }

    void norms() {
        const auto count = rows_ * width_;
        const Stored x(machine_, random(count), shift_), weight(machine_, random(width_), shift_),
            a(machine_, random(count), shift_), b(machine_, random(width_), shift_);
        const auto xs = x.rounded(), ws = weight.rounded(), as = a.rounded(), bs = b.rounded();
        const auto sum = [&](std::int64_t row, auto&& term) {
            double total = 0;
            for (std::int64_t i = 0; i < width_; ++i) total += term(at(row, i), static_cast<std::size_t>(i));
            return total / static_cast<double>(width_);
        };
        Numbers y(xs.size()), gradient(xs.size()), tangent(xs.size()), both(xs.size());
        const Stored start(machine_, random(count), shift_);
        const auto starts = start.rounded();
        double scale = 0, along = 0, back = 0;
        in_rows(
            [&](std::int64_t row) {
                scale = 1 / std::sqrt(sum(row, [&](auto i, auto) { return xs[i] * xs[i]; }) + epsilon);
                back = scale * scale * sum(row, [&](auto i, auto w) { return xs[i] * ws[w] * as[i]; });
                along = scale * scale * sum(row, [&](auto i, auto) { return xs[i] * as[i]; });
            },
            [&](std::int64_t row, std::int64_t column) {
                const auto i = at(row, column), w = static_cast<std::size_t>(column);
                y[i] = xs[i] * scale * ws[w];
                gradient[i] = starts[i] + scale * (ws[w] * as[i] - xs[i] * back);
                tangent[i] = scale * (as[i] - xs[i] * along) * ws[w];
                both[i] = tangent[i] + scale * xs[i] * bs[w];
            });
        constexpr auto e = static_cast<float>(epsilon);
        const auto out = Stored::empty(machine_, count, shift_);
        auto error = run_.rms_norm(storage, x.data(), weight.data(), e, rows_, width_, out.data(), nullptr);
        note("rms_norm", error, out.now(), y);
        error =
            run_.rms_norm_backward(storage, x.data(), weight.data(), e, a.data(), rows_, width_, start.data(), nullptr);
        note("rms_norm_backward", error, start.now(), gradient);
        error = run_.rms_norm_tangent(storage, x.data(), weight.data(), e, a.data(), b.data(), rows_, width_,
                                      out.data(), nullptr);
        note("rms_norm_tangent", error, out.now(), both);
        if (width_ == 1) return;  // the tangent in one dimension is rounding alone
        error = run_.rms_norm_tangent(storage, x.data(), weight.data(), e, a.data(), nullptr, rows_, width_, out.data(),
                                      nullptr);
        note("rms_norm_tangent", error, out.now(), tangent);
    }

    void activations() {
        const auto count = rows_ * width_;
        const Stored x(machine_, random(2 * count, 4.0), shift_), t(machine_, random(2 * count), shift_),
            g(machine_, random(count), shift_);
        const auto xs = x.rounded(), ts = t.rounded(), gs = g.rounded();
        Numbers y(gs.size()), tangent(gs.size()), gradient(xs.size());
        in_rows([](std::int64_t) {},
                [&](std::int64_t row, std::int64_t column) {
                    const auto i = at(row, column), gate = static_cast<std::size_t>(row * 2 * width_ + column),
                               up = gate + static_cast<std::size_t>(width_);
                    const double s = 1 / (1 + std::exp(-xs[gate])), slope = s * (1 + xs[gate] * (1 - s));
                    y[i] = xs[gate] * s * xs[up];
                    gradient[gate] = gs[i] * xs[up] * slope;
                    gradient[up] = gs[i] * xs[gate] * s;
                    tangent[i] = ts[gate] * xs[up] * slope + ts[up] * xs[gate] * s;
                });
        const auto out = Stored::empty(machine_, count, shift_), wide = Stored::empty(machine_, 2 * count, shift_),
                   along = Stored::empty(machine_, count, shift_);
        auto error = run_.swiglu(storage, x.data(), rows_, width_, out.data(), nullptr);
        note("swiglu", error, out.now(), y);
        error = run_.swiglu_backward(storage, x.data(), g.data(), rows_, width_, wide.data(), nullptr);
        note("swiglu_backward", error, wide.now(), gradient);
        error = run_.swiglu_tangent(storage, x.data(), t.data(), rows_, width_, along.data(), nullptr);
        note("swiglu_tangent", error, along.now(), tangent);
    }

    /// Matrices of `rows` rows, pairs of which share what they see, and rows in groups of 2 or 1.
    void softmax() {
        constexpr std::int64_t batch = 4;
        const std::int64_t group = rows_ % 2 == 0 ? 2 : 1, queries = rows_ / group;
        constexpr float scale = 0.37F;
        for (const std::int64_t sharing : {0, 2}) {
            Numbers valid;
            for (std::int64_t i = 0; i < queries * (sharing == 0 ? 1 : batch / sharing); ++i)
                valid.push_back(static_cast<double>(sharing == 2 && i == 0 ? 0 : 1 + (i * 37 + width_ - 1) % width_));
            const Stored scores(machine_, random(batch * rows_ * width_, 5.0), shift_),
                values(machine_, random(batch * rows_ * width_), shift_);
            const There<std::int64_t> seen(machine_, valid);
            const auto ss = scores.rounded();
            Numbers p(ss.size(), 0.0);
            for (std::int64_t row = 0; row < batch * rows_; ++row) {
                const auto block = sharing == 0 ? 0 : row / rows_ / sharing;
                const auto keys =
                    static_cast<std::size_t>(valid[static_cast<std::size_t>(block * queries + row % rows_ / group)]);
                const auto first = static_cast<std::size_t>(row * width_);
                double total = 0;
                for (auto i = first; i < first + keys; ++i) total += p[i] = std::exp(scale * ss[i]);
                for (auto i = first; i < first + keys; ++i) p[i] /= total;
            }
            auto error = run_.causal_softmax(storage, scores.data(), batch, rows_, width_, group, sharing, seen.data(),
                                             scale, nullptr);
            note("causal_softmax", error, scores.now(), p);
            if (width_ == 1) continue;
            const auto ps = scores.now(), vs = values.rounded();
            Numbers jacobian(ps.size());
            for (std::int64_t row = 0; row < batch * rows_; ++row) {
                const auto first = static_cast<std::size_t>(row * width_),
                           end = first + static_cast<std::size_t>(width_);
                double dot = 0;
                for (auto i = first; i < end; ++i) dot += ps[i] * vs[i];
                for (auto i = first; i < end; ++i) jacobian[i] = scale * ps[i] * (vs[i] - dot);
            }
            error = run_.softmax_jacobian(storage, scores.data(), values.data(), batch * rows_, width_, scale, nullptr);
            note("softmax_jacobian", error, values.now(), jacobian);
        }
    }

    void cross_entropy() {
        auto logit = random(rows_ * width_, width_ < 8 ? 1.0 : 6.0);  // wide apart, few give a loss of rounding alone
        for (auto& z : logit) z += 20;
        if (width_ > 4) logit[2] = -std::numeric_limits<double>::infinity(), logit[3] = -1e30;
        Numbers label, label_scale = random(rows_);
        for (std::int64_t row = 0; row < rows_; ++row)
            label.push_back(static_cast<double>(row % 2 == 0 ? width_ - 1 - row % width_ : row % width_));
        const Stored logits(machine_, logit, shift_);
        const There<std::int64_t> labels(machine_, label);
        const There<float> scale(machine_, label_scale), loss = There<float>::empty(machine_, rows_);
        const auto zs = logits.rounded(), ks = scale.rounded();
        Numbers losses, gradient(zs.size());
        double total = 0;
        in_rows(
            [&](std::int64_t row) {
                total = 0;
                for (std::int64_t i = 0; i < width_; ++i) total += std::exp(zs[at(row, i)]);
                losses.push_back(std::log(total) -
                                 zs[at(row, static_cast<std::int64_t>(label[static_cast<std::size_t>(row)]))]);
            },
            [&](std::int64_t row, std::int64_t column) {
                const auto r = static_cast<std::size_t>(row), i = at(row, column);
                gradient[i] = ks[r] * (std::exp(zs[i]) / total - (static_cast<double>(column) == label[r] ? 1.0 : 0.0));
            });
        const auto error = run_.cross_entropy(storage, logits.data(), rows_, width_, labels.data(), scale.data(),
                                              loss.data(), nullptr);
        if (width_ == 1) losses.assign(losses.size(), 0.0), gradient.assign(gradient.size(), 0.0);
        note("cross_entropy", error, logits.now(), gradient);
        note("cross_entropy losses", error, loss.now(), losses);
    }

    /// Heads of about `width` numbers, some columns within wider rows.
    void rotation() {
        const std::int64_t head_dim = 2 * ((width_ + 1) / 2), half = head_dim / 2;
        for (const std::int64_t heads : {1, 3}) {
            const auto stride = heads * head_dim + (shift_ == 0 ? 16 : 7);
            const Stored x(machine_, random(rows_ * stride), shift_);
            const There<float> cosine(machine_, random(rows_ * half)), sine(machine_, random(rows_ * half));
            const auto xs = x.rounded(), cs = cosine.rounded(), ss = sine.rounded();
            for (const float direction : {1.0F, -1.0F}) {
                const Stored turned(machine_, xs, shift_);
                auto expected = xs;
                for (std::int64_t row = 0; row < rows_; ++row)
                    for (std::int64_t pair = 0; pair < heads * half; ++pair) {
                        const auto first =
                                       static_cast<std::size_t>(row * stride + pair / half * head_dim + pair % half),
                                   second = first + static_cast<std::size_t>(half),
                                   angle = static_cast<std::size_t>(row * half + pair % half);
                        expected[first] = xs[first] * cs[angle] - direction * xs[second] * ss[angle];
                        expected[second] = xs[second] * cs[angle] + direction * xs[first] * ss[angle];
                    }
                const auto error = run_.rotate(storage, turned.data(), rows_, stride, heads, head_dim, cosine.data(),
                                               sine.data(), direction, nullptr);
                note("rotate", error, turned.now(), expected);
            }
        }
    }

    /// More and fewer buckets than columns, of a row some columns longer.
    void bucket_sums() {
        for (const std::int64_t buckets : {width_ / 64 + 1, width_ / 3 + 2, 2 * width_ + 5}) {
            const auto stride = width_ + static_cast<std::int64_t>(shift_);
            const Stored x(machine_, random(rows_ * stride), shift_);
            std::mt19937_64 engine(++seed_);
            std::vector<std::vector<std::int32_t>> members(static_cast<std::size_t>(buckets));
            for (std::int32_t i = 0; i < width_; ++i)
                members[engine() % members.size()].push_back(engine() % 2 == 0 ? i : ~i);
            Numbers order, start{0.0};
            for (const auto& own : members) {
                order.insert(order.end(), own.begin(), own.end());
                start.push_back(static_cast<double>(order.size()));
            }
            const auto xs = x.rounded();
            Numbers expected;
            for (std::int64_t row = 0; row < rows_; ++row)
                for (const auto& own : members) {
                    double sum = 0;
                    for (const auto i : own) {
                        const auto column = static_cast<std::size_t>(row * stride + (i < 0 ? ~i : i));
                        sum += i < 0 ? -xs[column] : xs[column];
                    }
                    expected.push_back(sum);
                }
            const There<std::int32_t> orders(machine_, order), starts(machine_, start);
            const auto sketches = There<float>::empty(machine_, rows_ * buckets);
            const auto error = run_.bucket_sums(storage, x.data(), rows_, stride, width_, orders.data(), starts.data(),
                                                buckets, sketches.data(), nullptr);
            note("bucket_sums", error, sketches.now(), expected);
        }
    }

    const KernelMachine& machine_;
    const model::CudaKernels& run_;
    std::int64_t rows_, width_;
    std::size_t shift_;
    std::uint64_t seed_ = 0;
    std::vector<KernelFinding> findings_;
};

/// Segments of no rows, one, and more than are summed side by side.
inline KernelFinding product_sums_finding(const KernelMachine& machine, std::int64_t width) {
    const Numbers offsets{0, 3, 3, 4, 21, 70};
    const auto rows = static_cast<std::int64_t>(offsets.back());
    const auto segments = static_cast<std::int64_t>(offsets.size()) - 1;
    const There<float> a(machine, normal_numbers(2 * rows * width, 1)), b(machine, normal_numbers(2 * rows * width, 2));
    const There<std::int32_t> starts(machine, offsets);
    const auto sums = There<float>::empty(machine, 2 * segments * width);
    const auto as = a.rounded(), bs = b.rounded();
    Numbers expected(static_cast<std::size_t>(2 * segments * width));
    for (std::size_t segment = 0; segment + 1 < offsets.size(); ++segment)
        for (auto row = static_cast<std::int64_t>(offsets[segment]);
             row < static_cast<std::int64_t>(offsets[segment + 1]); ++row)
            for (std::int64_t column = 0; column < width; ++column) {
                const auto i = static_cast<std::size_t>(2 * (row * width + column)),
                           o = 2 * (segment * static_cast<std::size_t>(width) + static_cast<std::size_t>(column));
                expected[o] += as[i] * bs[i] - as[i + 1] * bs[i + 1];
                expected[o + 1] += as[i] * bs[i + 1] + as[i + 1] * bs[i];
            }
    const auto error =
        machine.kernels.product_sums(a.data(), b.data(), starts.data(), segments, width, sums.data(), nullptr);
    return {"product_sums", std::to_string(width) + " frequencies",
            error == 0 ? relative_difference(sums.now(), expected) : std::numeric_limits<double>::infinity()};
}

/// All of them.
template <class T>
std::vector<KernelFinding> kernel_findings(const KernelMachine& machine) {
    std::vector<KernelFinding> all;
    for (const std::int64_t rows : {1, 5, 18})
        for (const std::int64_t width : {1, 2, 3, 7, 8, 15, 16, 17, 33, 64, 100, 577, 2048, 2056})
            for (const std::size_t shift : {0, 1})
                for (auto& finding : KernelCases<T>(machine, rows, width, shift)()) all.push_back(finding);
    for (const std::int64_t width : {1, 31, 33, 513}) all.push_back(product_sums_finding(machine, width));
    for (const auto& more : {not_a_number_findings<T>(machine), extreme_gates_findings<T>(machine)})
        all.insert(all.end(), more.begin(), more.end());
    return all;
}

/// Of one kernel in that storage: numbers are rounded to it once, at the end.
template <class T>
constexpr double kernel_tolerance() {
    return std::is_same_v<T, float> ? 3e-6 : 1.0 / 256;
}

}  // namespace idistill::test
