#include "idistill/plan/batch.hpp"

#include <algorithm>

namespace idistill::plan {

Batch largest_batch(std::span<const data::WorkUnit> units, std::int64_t batch_tokens, const LengthsOf& lengths) {
    Batch most;
    std::vector<std::int32_t> tokens;
    for (const auto& unit : units) {
        const auto samples = lengths(unit);
        tokens.clear();
        for (const auto& sample : samples) tokens.push_back(static_cast<std::int32_t>(sample.tokens));
        most.rows = std::max(most.rows, std::ssize(samples));
        for (const auto& members : data::pack_micro_batches(tokens, batch_tokens)) {
            Length sum;
            for (const auto i : members) {
                sum.tokens += samples[static_cast<std::size_t>(i)].tokens;
                sum.labels += samples[static_cast<std::size_t>(i)].labels;
            }
            most.tokens = std::max(most.tokens, sum.tokens);
            most.labels = std::max(most.labels, sum.labels);
            most.samples = std::max(most.samples, std::ssize(members));
            most.longest = std::max(most.longest, samples[static_cast<std::size_t>(members.front())].tokens);
        }
    }
    return most;
}

Batch any_batch(std::int64_t rows, std::int64_t batch_tokens, std::int64_t longest) {
    const auto tokens = std::min(std::max(batch_tokens, longest), rows * longest);
    return {.rows = rows, .tokens = tokens, .samples = std::min(rows, tokens), .labels = tokens, .longest = longest};
}

}  // namespace idistill::plan
