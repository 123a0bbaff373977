#pragma once
// The family of embeddings: cheap numbers of every sample, that carry influence from landmarks to the pool.

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "idistill/data/sample_set.hpp"
#include "idistill/embedding/settings.hpp"
#include "idistill/model/cost.hpp"
#include "idistill/model/decoder.hpp"
#include "idistill/model/planner.hpp"
#include "idistill/options/values.hpp"

namespace idistill::embedding {

/// One embedding. Calls come in this order: plan, then load and match, then rows.
class Embedding {
public:
    virtual ~Embedding() = default;

    /// As --embedding takes it.
    [[nodiscard]] virtual std::string name() const = 0;
    /// Adds needs, and fixes width and cost. Throws Error(usage) for settings that the model cannot meet.
    virtual void plan(model::Planner& planner) = 0;
    /// Numbers of a sample, e.
    [[nodiscard]] virtual std::int64_t width() const = 0;
    /// Planned FLOPs of a sample with so many tokens, of which `labels` predict a label.
    [[nodiscard]] virtual double flops(std::int64_t tokens, std::int64_t labels) const = 0;

    /// Bytes that a pass holds of its largest micro-batch of whole samples, and of a unit's rows.
    [[nodiscard]] virtual plan::PassBytes pass_bytes(const plan::Batch& largest) const = 0;
    [[nodiscard]] virtual double unit_bytes(const plan::Batch& largest) const {
        return model::fp32_bytes * static_cast<double>(width()) * static_cast<double>(largest.rows + largest.samples);
    }

    /// False where it never looks at the weights of the model.
    [[nodiscard]] virtual bool reads_weights() const { return true; }
    /// `decoder` outlives the embedding.
    virtual void load(const model::Decoder& decoder) = 0;
    /// Collective, for every corpus that rows() is asked of: of a file, finds its rows with wanted[row] != 0. Throws
    /// Error(bad_input) where some are missing.
    virtual void match([[maybe_unused]] comm::Communicator& comm, [[maybe_unused]] const data::Corpus& corpus,
                       [[maybe_unused]] std::span<const std::uint8_t> wanted) {}
    /// What stands for it in a run's identity.
    [[nodiscard]] virtual std::string identity() const { return name(); }

    /// (n x e) fp32 on the CPU, on this rank alone.
    [[nodiscard]] virtual torch::Tensor rows(const data::SampleSet& set) const = 0;
};

/// The embedding that `text` names; of a file, with its facts in EmbeddingFiles. Throws Error(usage) for none.
std::unique_ptr<Embedding> make_embedding(const std::string& text, const options::Values& values);

/// Fills EmbeddingFiles: opens every file that --embedding names. Throws Error(bad_input) for one that is none.
void look_at_files(options::Values& values);

}  // namespace idistill::embedding
