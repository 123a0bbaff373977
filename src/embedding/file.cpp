// Embeddings that `idistill_mpi embed`, or anyone, wrote into a file.

#include <ATen/ATen.h>

#include <utility>

#include "idistill/data/embedding_file.hpp"
#include "idistill/embedding/embedding.hpp"
#include "idistill/embedding/members.hpp"

namespace idistill::embedding {

Member file_member();  // listed in members.cpp

namespace {

class FileEmbedding final : public Embedding {
public:
    explicit FileEmbedding(std::string path) : path_(std::move(path)), file_(path_) {}

    [[nodiscard]] std::string name() const override { return path_; }
    void plan(model::Planner& planner) override {
        planner.plan.needs.push_back(
            {.what = "rows of " + path_, .per_rank = 8.0 * static_cast<double>(planner.usable.pool_rows)});
    }
    [[nodiscard]] std::int64_t width() const override { return file_.width(); }
    [[nodiscard]] double flops(std::int64_t /*tokens*/, std::int64_t /*labels*/) const override { return 0.0; }
    [[nodiscard]] double pass_bytes(const plan::Batch& /*largest*/) const override { return 0.0; }
    [[nodiscard]] double unit_bytes(const plan::Batch& largest) const override {  // as read, and as a tensor
        return 8.0 * static_cast<double>(file_.width()) * static_cast<double>(largest.rows);
    }
    void load(const model::Decoder& /*decoder*/) override {}
    void match(comm::Communicator& comm, const data::Corpus& pool, std::span<const std::uint8_t> wanted) override {
        file_.match(comm, pool, wanted);
    }
    [[nodiscard]] std::string identity() const override { return "file " + file_.fingerprint(); }
    [[nodiscard]] torch::Tensor rows(const data::SampleSet& set) const override {
        auto values = file_.read(set.rows());
        return at::from_blob(values.data(), {std::ssize(set.rows()), file_.width()},
                             at::TensorOptions().dtype(torch::kFloat32))
            .clone();
    }

private:
    std::string path_;
    data::EmbeddingFile file_;
};

}  // namespace

Member file_member() {
    return {.form = "a file that ends in .h5",
            .is_named_by = [](const std::string& text) { return text.ends_with(".h5") || text.ends_with(".hdf5"); },
            .make = [](const std::string& text, const options::Values& /*values*/) -> std::unique_ptr<Embedding> {
                return std::make_unique<FileEmbedding>(text);
            },
            .of_embed = false,
            .of_file = true};
}

}  // namespace idistill::embedding
