#pragma once
// Micro-batches one after the other, in pieces where a GPU's memory does not hold one.

#include <cstdint>
#include <exception>
#include <functional>
#include <vector>

namespace idistill::model {

/// Whether a GPU's memory ended, by PyTorch's own type or by what CUDA and its libraries say.
bool is_out_of_memory(const std::exception& error);

/// Calls body(members) for every micro-batch. Where that runs out of a GPU's memory, it is called for halves of the
/// batch, and so on, and for as small pieces of the batches behind it; what does not hold one sample is thrown on.
/// `body` leaves nothing behind when it throws.
void for_each_micro_batch(const std::vector<std::vector<std::int64_t>>& batches,
                          const std::function<void(const std::vector<std::int64_t>& members)>& body);

/// Of one call for some members: what it adds to sums, in an order that is the same for all members. Halves of a batch
/// leave out what the whole batch had added before memory ran out.
class Additions {
public:
    /// Calls add(), which adds all or throws, unless these members' part is in the sum already.
    template <class Add>
    void operator()(Add&& add) {
        if (called_++ < done_) return;
        add();
        ++done_;
    }
    /// For one half of the members.
    [[nodiscard]] Additions left() const { return Additions(done_); }

    Additions() = default;

private:
    explicit Additions(std::int64_t done) : done_(done) {}

    std::int64_t done_ = 0, called_ = 0;
};

/// The same for a body that changes sums over samples, through `additions` alone.
void add_each_micro_batch(
    const std::vector<std::vector<std::int64_t>>& batches,
    const std::function<void(const std::vector<std::int64_t>& members, Additions& additions)>& body);

}  // namespace idistill::model
