// The list of embeddings: a line each, and one that declares it.

#include "idistill/embedding/members.hpp"

#include <algorithm>

#include "idistill/base/error.hpp"
#include "idistill/base/text.hpp"
#include "idistill/embedding/embedding.hpp"

namespace idistill::embedding {

Member jvp_member();
Member hidden_member();
Member gradient_tail_member();
Member gradient_member();
Member file_member();

std::span<const Member> members() {
    static const std::vector<Member> all{jvp_member(), hidden_member(), gradient_tail_member(), gradient_member(),
                                         file_member()};
    return all;
}

const Member* member_named(const std::string& text) {
    const auto all = members();
    const auto found =
        std::find_if(all.begin(), all.end(), [&](const Member& member) { return member.is_named_by(text); });
    return found == all.end() ? nullptr : &*found;
}

std::unique_ptr<Embedding> make_embedding(const std::string& text, const options::Values& values) {
    if (const auto* member = member_named(text)) return member->make(text, values);
    throw Error(ExitCode::usage, {"--embedding", "", "auto, jvp, hidden, gradient-tail:BLOCKS or a file",
                                  in_quotes(text), "Give --embedding one of these."});
}

}  // namespace idistill::embedding
