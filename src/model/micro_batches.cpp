#include "idistill/model/micro_batches.hpp"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <atomic>
#include <string_view>

#include "idistill/base/log.hpp"
#include "idistill/model/cuda.hpp"

namespace idistill::model {
namespace {

using Members = std::vector<std::int64_t>;
using Body = std::function<void(const Members&, Additions&)>;

/// False where memory ran out.
bool fits(const Members& members, Additions& additions, const Body& body) {
    try {
        body(members, additions);
    } catch (const std::exception& error) {
        if (members.size() == 1 || !is_out_of_memory(error)) throw;
        return false;
    }
    return true;
}

/// Once for each share of a batch in a process.
void say_halved(std::size_t samples, int halvings) {
    static std::atomic<int> said{0};
    if (halvings <= said) return;
    said = halvings;
    say(
        fmt::format("warning: the GPU's memory does not hold {} samples at a time: micro-batches are computed in {} "
                    "pieces; a smaller --batch-tokens saves the attempts",
                    samples, 1 << halvings));
}

/// Micro-batches of one call. All have about as many tokens: the share of one that did not fit is not tried of the
/// next.
class InHalves {
public:
    explicit InHalves(const Body& body) : body_(body) {}

    /// For what is left of a batch after this many halvings.
    void operator()(const Members& members, Additions additions, int halvings = 0) {
        if (members.size() == 1 || halvings >= needed_) {
            if (fits(members, additions, body_)) return;
            cuda::give_back_unused();
            needed_ = halvings + 1;
            say_halved(members.size(), needed_);
        }
        const auto middle = members.begin() + static_cast<std::ptrdiff_t>((members.size() + 1) / 2);
        (*this)({members.begin(), middle}, additions.left(), halvings + 1);
        (*this)({middle, members.end()}, additions.left(), halvings + 1);
    }

private:
    const Body& body_;
    int needed_ = 0;
};

}  // namespace

bool is_out_of_memory(const std::exception& error) {
    const std::string_view text = error.what();
    return dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr ||
           text.find("out of memory") != text.npos ||  // kernels, whose code is loaded when they are first called
           text.find("ALLOC_FAILED") != text.npos;     // cuBLAS, cuFFT, cuSOLVER
}

void for_each_micro_batch(const std::vector<Members>& batches, const std::function<void(const Members&)>& body) {
    add_each_micro_batch(batches, [&](const Members& members, Additions&) { body(members); });
}

void add_each_micro_batch(const std::vector<Members>& batches, const Body& body) {
    InHalves in_halves(body);
    for (const auto& batch : batches) in_halves(batch, {});
}

}  // namespace idistill::model
